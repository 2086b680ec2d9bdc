"""DSIR's formulas on texts of a few words, where every share is a simple fraction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import toy
from tamis.data.example import Example, Examples, Message
from tamis.errors import ConfigError
from tamis.methods.base import rank
from tamis.methods.dsir import (
    DSIR,
    bucket,
    bucket_shares,
    count_ngrams,
    log_ratio,
    log_weights,
    ngrams,
    row_text,
    tokens,
)
from tamis.methods.scores import Scores

LN2 = math.log(2)
# Single words of answers, in so many buckets that red and blue do not meet.
WORDS: dict[str, Any] = {"text": "response", "ngram_tokens": 1, "n_buckets": 1_000_003}
SMOOTH = 1e-7  # a share of 1/3 with 1e-8 added moves its logarithm by 3e-8


def answers(*texts: str) -> Examples:
    """Make rows with these answers to one request."""
    return toy.examples([("Which colour?", text) for text in texts])


def two_rows(**settings: Any) -> Scores:
    """Rank "red" and "blue blue" with the safe set "red red blue".

    Shares of red and blue are 2/3 and 1/3 in the safe set, 1/3 and 2/3 in the rows: ln 2 and -ln 2.
    """
    return rank(
        answers("red", "blue blue"), DSIR(**WORDS | settings), safe_set=answers("red red blue")
    )


# Tokens, n-grams, buckets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop: 3.5!", ["don", "'", "t", "stop", ":", "3", ".", "5", "!"]),
        ("snake_case  ...\n\n(ok)", ["snake_case", "...", "(", "ok", ")"]),
        ("Ärger — naïve 水", ["ärger", "—", "naïve", "水"]),
        (" \n\t", []),
    ],
)
def test_tokens_are_runs_of_word_characters_or_of_other_marks(
    text: str, expected: list[str]
) -> None:
    """Blanks separate and are lost; capitals become small."""
    assert tokens(text) == expected


def test_ngrams_are_all_runs_up_to_the_longest() -> None:
    """Three words: 3 single ones, 2 pairs, 1 triple."""
    found = list(ngrams(["a", "b", "c"], 3))
    assert found == ["a", "b", "c", "a b", "b c", "a b c"]


def test_ngrams_longer_than_the_text_are_none() -> None:
    """One word has no pair."""
    assert list(ngrams(["a"], 2)) == ["a"]


def test_a_bucket_is_the_end_of_the_hash() -> None:
    """SHA-256 of "abc" (FIPS 180) ends in 15ad: mod 2^8 it is 0xad, mod 2^16 0x15ad."""
    assert (bucket("abc", 2**8), bucket("abc", 2**16)) == (0xAD, 0x15AD)


def test_counts_add_up_to_words_and_pairs() -> None:
    """A text of W tokens has W single words and W - 1 pairs; one without tokens has none."""
    found = count_ngrams(["a b a b", "", "a"], 2, 50)
    assert np.asarray(found.counts.sum(axis=1)).tolist() == [4 + 3, 0, 1]
    assert found.n_tokens.tolist() == [4, 0, 1]


def test_counts_stand_in_the_bucket_of_each_ngram() -> None:
    """Of "a b a": a twice, and b, "a b", "b a" once each."""
    expected = np.zeros(10_000, dtype=int)
    for ngram, times in {"a": 2, "b": 1, "a b": 1, "b a": 1}.items():
        expected[bucket(ngram, 10_000)] += times
    assert (count_ngrams(["a b a"], 2, 10_000).counts.toarray()[0] == expected).all()


# Shares, ratios, weights


def test_shares_are_of_all_ngrams() -> None:
    """1, 3 and 0 of 4."""
    assert bucket_shares(np.array([1, 3, 0])).tolist() == [0.25, 0.75, 0.0]


def test_the_log_ratio_of_smoothed_shares() -> None:
    """Shares 1/2, 1/2, 0 over 1/4, 0, 3/4: ln 2, ln(1/2 / eps), ln(eps / (3/4)) for small eps."""
    found = log_ratio(np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.0, 0.75]), 1e-12)
    expected = [LN2, math.log(0.5e12), math.log(1e-12 / 0.75)]
    assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_a_log_weight_is_the_sum_over_ngrams() -> None:
    """One n-gram of ratio 0.5 and three of -2 make -5.5; a row without any has 0."""
    ratio = np.zeros(50)
    ratio[bucket("a", 50)], ratio[bucket("b", 50)] = 0.5, -2.0
    assert log_weights(count_ngrams(["a b b b", ""], 1, 50).counts, ratio).tolist() == [-5.5, 0.0]


# The ranking


def test_the_score_is_the_mean_log_ratio() -> None:
    """Each n-gram of "red" has ln 2, each of "blue blue" -ln 2; length does not matter."""
    assert_allclose(two_rows().values, [LN2, -LN2], atol=SMOOTH)


def test_the_published_readout_is_the_sum() -> None:
    """Two words of -ln 2 are -2 ln 2."""
    assert_allclose(two_rows(readout="sum").values, [LN2, -2 * LN2], atol=SMOOTH)


@pytest.mark.parametrize("readout", ["mean", "sum"])
def test_both_readouts_are_stored(readout: str) -> None:
    """Whichever is the score, the other can be selected by."""
    scores = two_rows(readout=readout)
    assert (scores.values == scores.readouts()[readout]).all()
    assert_allclose(
        scores.readouts()["mean"] * scores.columns["n_ngrams"], scores.readouts()["sum"]
    )


def test_a_text_said_twice_has_the_same_mean_and_twice_the_sum() -> None:
    """With single words only, for pairs run across the seam."""
    rows = answers("red green blue", "red green blue red green blue")
    scores = rank(rows, DSIR(**WORDS), safe_set=answers("red red green"))
    (once, twice), (short, long) = scores.readouts()["mean"], scores.readouts()["sum"]
    assert_allclose([twice, long], [once, 2 * short], rtol=1e-12)


def test_the_harmful_set_can_be_the_other_side() -> None:
    """Shares 2/3 and 1/3 of the safe set over 1/3 and 2/3 of the harmful one: ln 2 and -ln 2."""
    scores = rank(
        answers("red", "blue"), DSIR(against="harmful_set", **WORDS),
        safe_set=answers("red red blue"), harmful_set=answers("blue red", "blue"),
    )  # fmt: skip
    assert_allclose(scores.values, [LN2, -LN2], atol=SMOOTH)


def test_against_the_harmful_set_a_score_does_not_depend_on_other_rows() -> None:
    """Neither share is of the fine-tuning set."""
    method = DSIR(against="harmful_set")
    sets = {"safe_set": answers("red red blue"), "harmful_set": answers("blue", "green")}
    alone = rank(answers("red green"), method, **sets).values
    among = rank(answers("red green", "blue sky", "grey"), method, **sets).values
    assert alone[0] == among[0]


def test_exchanging_the_two_sides_turns_the_sign() -> None:
    """log(a / b) = -log(b / a), bit for bit."""
    rows, one, other = (
        answers("red green", "blue"),
        answers("red red blue"),
        answers("blue", "green"),
    )
    method = DSIR(against="harmful_set")
    found = rank(rows, method, safe_set=one, harmful_set=other).values
    assert (rank(rows, method, safe_set=other, harmful_set=one).values == -found).all()


def test_a_harmful_set_is_ignored_unless_asked_for() -> None:
    """Giving one for another method does not change the published score."""
    rows, safe = answers("red", "blue blue"), answers("red red blue")
    given = rank(rows, DSIR(**WORDS), safe_set=safe, harmful_set=answers("green"))
    assert given.values.tobytes() == two_rows().values.tobytes()


@pytest.mark.parametrize(("text", "expected"), [
    ("prompt", "Be kind\nA?\nC?"), ("response", "B.\nD."), ("both", "Be kind\nA?\nB.\nC?\nD."),
])  # fmt: skip
def test_the_turns_that_are_read(text: Any, expected: str) -> None:
    """Prompt is system and user, response the assistant, both everything in its order."""
    turns = [("system", "Be kind"), ("user", "A?"), ("assistant", "B."), ("user", "C?"),
             ("assistant", "D.")]  # fmt: skip
    messages = tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]
    assert row_text(Example("row", messages, None, "", None, None), text) == expected


def test_read_prompts_alone_give_equal_scores_to_all_answers() -> None:
    """And the notes warn of it."""
    rows = toy.examples([("Name a river", "Rhine"), ("Name a river", "No."), ("Sing", "La")])
    scores = rank(rows, DSIR(text="prompt"), safe_set=toy.examples([("Name a city", "Rome")]))
    assert scores.values[0] == scores.values[1] != scores.values[2]
    assert any("text=prompt" in note for note in scores.details["notes"])


def test_every_row_has_a_score_by_default() -> None:
    """A row of one word too; the package leaves out rows under 100 tokens."""
    assert two_rows().outcome == ["ok", "ok"]


def test_a_row_under_min_tokens_has_no_score_and_changes_no_other() -> None:
    """It is too short for a score, and still one of the rows that the shares are of."""
    scores = two_rows(min_tokens=2)
    assert list(scores.outcome) == ["too_short", "ok"]
    assert np.isnan(scores.values[0])
    assert scores.values[1] == two_rows().values[1]


def test_the_share_of_unseen_ngrams_is_told() -> None:
    """Two of "red", "green", "sky" are in no safe row; without such n-grams there is no note."""
    scores = rank(answers("red green", "sky"), DSIR(**WORDS), safe_set=answers("red"))
    assert scores.details["share_of_ngrams_unseen_in_safe_set"] == pytest.approx(2 / 3)
    assert any("66.7% of the fine-tuning n-grams" in note for note in scores.details["notes"])
    assert not any("n-grams fall" in note for note in two_rows().details["notes"])


# Refusals


def test_a_missing_harmful_set_is_refused() -> None:
    """The message says what to give, and what to set instead."""
    with pytest.raises(ConfigError, match=r"give --harmful-set, or set against=finetuning_set"):
        two_rows(against="harmful_set")


@pytest.mark.parametrize("empty", ["safe_set", "harmful_set"])
def test_a_set_without_rows_is_refused(empty: str) -> None:
    """Its shares are not defined."""
    sets = {"safe_set": answers("red"), "harmful_set": answers("blue")}
    sets[empty] = sets[empty].restrict([])
    with pytest.raises(ConfigError, match=f"the {empty} has no text to count"):
        rank(answers("red"), DSIR(against="harmful_set"), **sets)


def test_a_safe_set_of_the_same_words_is_refused() -> None:
    """The same rows twice over have the same shares: no row is told from another."""
    with pytest.raises(ConfigError, match="every row would score 0"):
        rank(answers("red", "blue"), DSIR(), safe_set=answers("red", "blue", "blue", "red"))


def test_a_set_of_rows_under_min_tokens_is_refused() -> None:
    """There is nothing to rank."""
    with pytest.raises(ConfigError, match=r"none of the 2 rows has 9 tokens .*min_tokens"):
        two_rows(min_tokens=9)
