"""How many judges there were: what gave verdicts is counted, not names."""

from __future__ import annotations

import pytest

from tamis.report.judge_records import count_judges

URL = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [(f"endpoint:m@{URL}", f"endpoint:m@{URL}", 1), (f"endpoint:m@{URL}", f"endpoint:k@{URL}", 2),
     ("guard:g@12ab", "guard:g@12ab", 1), ("guard:g@12ab", "guard:copy@12ab", 1),
     ("guard:g@12ab", "guard:g@34cd", 2), ("refusal_strings", "guard:g@12ab", 2)],
)  # fmt: skip
def test_names_of_one_model_are_one_judge(a: str, b: str, n: int) -> None:
    """Two rubrics, two thresholds, and equal weights under two names."""
    assert count_judges(["one", "other"], {"one": a, "other": b}) == n


def test_without_identities_names_are_counted() -> None:
    """Older files have none."""
    assert count_judges(["one", "other"], {}) == 2
