"""What a comparison says of its rows in words: contradictions, rates, what was not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from test_plan_compare import comparison

from tamis.cli.compare import prepare, run_compare
from tamis.cli.compare_config import CompareConfig
from tamis.methods.base import RankingInputs
from tamis.methods.scores import Scores
from tamis.report.comparison import comparison_view
from tamis.report.stages import read_comparison

N = 40  # every fourth row is harmful


class Flagging:
    """Flags the first eight rows it is given, and scores no row that ends in 9."""

    requires: ClassVar[frozenset[str]] = frozenset()

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row by its place."""
        rows, n = inputs.finetuning_set, len(inputs.finetuning_set)
        flagged = np.where(np.arange(n) < 8, 1.0, 0.0)
        return Scores("flagging", rows.ids, rows.source_ids, np.arange(n, dtype=np.float64),
                      ["ok"] * n, None, {"flagged": flagged})  # fmt: skip


class Silent(Flagging):
    """Scores nothing."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Give no row a score."""
        rows, n = inputs.finetuning_set, len(inputs.finetuning_set)
        return Scores("silent", rows.ids, rows.source_ids, np.full(n, np.nan), ["too_long"] * n,
                      None)  # fmt: skip


class Once(Flagging):
    """Scores harmful rows in the first set of rows only."""

    def rank(self, inputs: RankingInputs) -> Scores:
        """Count beside the cache; source ids of harmful rows are multiples of four."""
        assert inputs.cache is not None
        marks, found = inputs.cache.parent / "marks", super().rank(inputs)
        marks.mkdir(exist_ok=True)
        (marks / str(len(list(marks.iterdir())))).touch()
        if len(list(marks.iterdir())) < 3:
            return found
        bad = [int(str(row).removeprefix("r")) % 4 == 0 for row in found.source_ids]
        return Scores("once", found.ids, found.source_ids, np.where(bad, np.nan, found.values),
                      np.where(bad, "unparsable", "ok").tolist(), None)  # fmt: skip


FLAGGING = {"it": {"name": f"{__name__}:Flagging"}}


def relabelled(config: CompareConfig, harmful: bool) -> CompareConfig:
    """Give all rows one label."""
    lines = [json.dumps({"id": f"r{i}", "harmful": harmful}) for i in range(N)]
    config.labels.write_text("\n".join(lines) + "\n")
    return config


def facts(config: CompareConfig, rows: str = "all") -> list[str]:
    """What is said of a set of rows; the page says the same."""
    found = run_compare(prepare(config))["facts"]
    pages = {view.name: view.facts for view in comparison_view(read_comparison(config.out)).rows}
    assert {name: tuple(said) for name, said in found.items()} == pages
    said: list[str] = found[rows]
    return said


def test_nothing_odd_is_nothing_said(tmp_path: Path) -> None:
    """Both kinds are there, once each, and no method flags."""
    assert facts(comparison(tmp_path, {"it": {"name": "uniform"}}, n=N)) == []


def test_shares_flagged_stand_beside_the_truth(tmp_path: Path) -> None:
    """Of the first eight rows 0 and 4 are harmful: 2 of 10, and 6 of 30."""
    (said,) = facts(comparison(tmp_path, FLAGGING, n=N))
    assert said.startswith("it flags 20.0% (5.7% to 51.0%) of the harmful rows and 20.0% (9.5% ")
    assert said.endswith(" of the other rows by a rule of its own.")


def test_shares_flagged_of_several_rankings_are_means(tmp_path: Path) -> None:
    """Two plantings."""
    config = comparison(tmp_path, FLAGGING, n=N, parts={"p": {"rate": 0.1, "draws": 2}})
    (said,) = facts(config, "p")
    assert said.count("(mean of 2 rankings)") == 2


@pytest.mark.parametrize(
    ("harmful", "kind", "other"), [(False, "harmful", "other"), (True, "not harmful", "harmful")]
)
def test_labels_of_one_kind_measure_nothing_and_say_so(
    harmful: bool, kind: str, other: str, tmp_path: Path
) -> None:
    """What can be told is what was flagged."""
    why, flags = facts(relabelled(comparison(tmp_path, FLAGGING, n=N), harmful))
    assert why == (
        f"none of the 40 rows measured is labelled {kind}, so that nothing says how well harmful "
        "rows are found."
    )
    assert flags == (f"it flags 20.0% (10.5% to 34.8%) of the {other} rows by a rule of its own.")


def test_a_method_without_scores_is_named(tmp_path: Path) -> None:
    """The others have figures."""
    methods: dict[str, Any] = {"no": {"name": f"{__name__}:Silent"}, "it": {"name": "uniform"}}
    assert facts(comparison(tmp_path, methods, n=N)) == [
        "no: no row has a score, so that nothing says how well harmful rows are found."
    ]


def test_one_draw_without_a_kind_is_told_as_one(tmp_path: Path) -> None:
    """The second planting has no harmful row with a score; the first one had its figures."""
    config = comparison(tmp_path, {"it": {"name": f"{__name__}:Once"}}, n=N,
                        parts={"p": {"rate": 0.1, "draws": 2}})  # fmt: skip
    assert facts(config, "p")[0] == (
        "in 1 of 2 rankings none of the 30 rows measured is labelled harmful, so that nothing says "
        "how well harmful rows are found."
    )


def test_unscored_rows_are_counted_with_their_reason(tmp_path: Path) -> None:
    """Of every ranking of the method the most."""
    config = comparison(tmp_path, {"it": {"name": f"{__name__}:Once"}}, n=N,
                        parts={"p": {"rate": 0.1, "draws": 2}})  # fmt: skip
    assert not any("no score" in said for said in facts(config))
    found = json.loads((config.out / "comparison.json").read_text())["facts"]["p"]
    assert "it: up to 3 rows have no score and are not measured (unparsable 3)." in found


def test_a_rate_that_costs_other_rows_says_what_it_costs(tmp_path: Path) -> None:
    """Ten harmful rows are nine tenths of eleven; where all others have room nothing is said."""
    parts = {"most": {"rate": 0.9}, "few": {"rate": 0.2}}
    config = comparison(tmp_path, {"it": {"name": "uniform"}}, n=N, parts=parts)
    assert facts(config, "most") == [
        "a rate of 0.9 with all 10 harmful rows leaves room for 1 of the 30 others: 11 of 40 rows "
        "are ranked. Lower the rate, or give more harmful rows."
    ]
    assert facts(config, "few") == []


def test_copies_with_both_labels_are_named(tmp_path: Path) -> None:
    """One content, harmful once and not the other time; copies that agree are no word."""
    config = comparison(tmp_path, {"it": {"name": "uniform"}}, n=N)
    copies = {"again": (1, True), "same": (2, False)}
    with (tmp_path / "rows.jsonl").open("a") as rows, config.labels.open("a") as labels:
        for name, (i, harmful) in copies.items():
            row = {"id": name, "prompt": f"{i:04}", "completion": "yes"}
            rows.write(json.dumps(row) + "\n")
            labels.write(json.dumps({"id": name, "harmful": harmful}) + "\n")
    (said,) = facts(config)
    torn = prepare(config).examples.ids[1]
    assert said.startswith(f"copies of one row have opposite labels, 1 times ({torn}): no score")
