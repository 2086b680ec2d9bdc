"""Our DSIR against the authors' package data-selection 1.0.3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from data_selection import HashedNgramDSIR
from data_selection.hashed_ngram_dsir import get_ngram_counts

import toy
from tamis.data.example import Examples
from tamis.methods.base import rank
from tamis.methods.dsir import DSIR, count_ngrams, row_text, tokens

pytestmark = pytest.mark.peer

ODD = [
    ("Don't STOP -- it's 3.5%!", "snake_case, e-mail@example.org;  two  blanks\tand a tab"),
    ("Ärger, naïve ÉCOLE?", "水 is water; ½ + ½ = 1 … “quoted” 🙂🙂"),
    ("x", "y"),
    ("line one\nline two\r\n\nline four", "the the the the"),
]


def fixture() -> tuple[Examples, Examples]:
    """Return rows to rank and safe rows, with odd characters among both."""
    made = toy.contaminated_set(40, n_harmful=12, n_safe=20)

    def pairs(rows: Examples) -> list[tuple[str, str]]:
        return [(row.messages[0].content, row.messages[1].content) for row in rows]

    raw, safe = pairs(made.finetuning_set), pairs(made.safe_set)
    return toy.examples([*raw, *ODD]), toy.examples([*safe, *ODD[:2], *ODD[:1]])


def texts(rows: Examples) -> list[str]:
    """Return what DSIR reads of each row."""
    return [row_text(row, "both") for row in rows]


def write(path: Path, lines: Sequence[str]) -> str:
    """Write texts as the package reads them."""
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("n_buckets", [100, 10_000])
@pytest.mark.parametrize("longest", [1, 2, 3])
def test_bucket_counts_equal_the_packages(longest: int, n_buckets: int) -> None:
    """Every row, every bucket, exactly."""
    rows = texts(fixture()[0])
    expected = [get_ngram_counts(text, n=longest, num_buckets=n_buckets) for text in rows]
    found = count_ngrams(rows, longest, n_buckets).counts.toarray()
    assert (found == np.array(expected)).all()


@pytest.mark.parametrize("text", ["İstanbul", "x² and CO₂", "नमस्ते दुनिया", "❤️ a\u0301 b"])
def test_where_nltks_engines_differ_the_buckets_still_equal_the_packages(text: str) -> None:
    """Combining marks and superscripts: with our tokens, the package counts as we do."""
    expected = get_ngram_counts(text, tokenizer=tokens)
    assert (count_ngrams([text], 2, 10_000).counts.toarray()[0] == expected).all()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> HashedNgramDSIR:
    """Fit the package on the fixture and write its log weights."""
    folder = tmp_path_factory.mktemp("dsir")
    rows, safe = fixture()
    fitted = HashedNgramDSIR(
        raw_datasets=[write(folder / "raw.jsonl", texts(rows))],
        target_datasets=[write(folder / "target.jsonl", texts(safe))],
        cache_dir=str(folder / "cache"), num_proc=1, min_example_length=0,
    )  # fmt: skip
    fitted.fit_importance_estimator()
    fitted.compute_importance_weights()
    return fitted


def test_log_weights_equal_the_packages(package: HashedNgramDSIR) -> None:
    """Readout `sum` at the default settings, to 1e-9 nats."""
    rows, safe = fixture()
    expected = np.load(package.log_importance_weights_dir / "0.npy")
    assert np.ptp(expected) > 10  # else equality would show little
    found = rank(rows, DSIR(readout="sum"), safe_set=safe).values
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shortest", [1, 5, 9, 12])
def test_rows_left_out_for_their_length_equal_the_packages(
    package: HashedNgramDSIR, shortest: int
) -> None:
    """`min_tokens` is the package's `min_example_length`: both count tokens."""
    rows, safe = fixture()
    lengths = np.load(package.perexample_metadata_dir / "0.npy")
    found = rank(rows, DSIR(min_tokens=shortest), safe_set=safe).values
    assert (np.isfinite(found) == (lengths >= shortest)).all()
