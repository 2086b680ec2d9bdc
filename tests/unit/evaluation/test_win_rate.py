"""Win rates: both orders, ties, symmetry under exchange of the models, coverage."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from tamis.evaluation.power import detectable_verdicts
from tamis.evaluation.statistics import wilson_interval
from tamis.evaluation.win_rate import PairVerdict, Place, WinRate, win_rate
from tamis.rng import numpy_generator

WIN, LOSS, TIE = ("first", "second"), ("second", "first"), ("tie", "tie")
BIASED = ("first", "first")


def generator(*purpose: str | int) -> np.random.Generator:
    """Make a generator of its own for each purpose."""
    return numpy_generator(0, "test win rate", *purpose)


def verdicts(*places: tuple[Place | None, Place | None]) -> list[PairVerdict]:
    """Name prompts by number."""
    return [PairVerdict(str(k), *pair) for k, pair in enumerate(places)]


def exchanged(given: list[PairVerdict]) -> list[PairVerdict]:
    """Call the reference the model: the same judgements, the orders' names exchanged."""
    return [PairVerdict(v.id, v.reference_first, v.model_first) for v in given]


@pytest.mark.parametrize(
    ("model_first", "reference_first", "outcome", "inconsistent"),
    [
        ("first", "second", 1.0, False),
        ("second", "first", 0.0, False),
        ("tie", "tie", 0.5, False),
        ("first", "first", 0.5, True),
        ("second", "second", 0.5, True),
        ("first", "tie", 0.5, True),
        ("tie", "first", 0.5, True),
        ("second", "tie", 0.5, True),
        ("tie", "second", 0.5, True),
        (None, "first", None, False),
        ("first", None, None, False),
        (None, None, None, False),
    ],
)
def test_outcome_of_two_orders(
    model_first: Place, reference_first: Place, outcome: float | None, inconsistent: bool
) -> None:
    """A win needs both orders; orders that differ are a tie; one order alone is nothing."""
    verdict = PairVerdict("x", model_first, reference_first)
    assert (verdict.outcome, verdict.inconsistent) == (outcome, inconsistent)


def test_counts_add_up() -> None:
    """3 wins, a tie, an inconsistent pair and a loss of 6, one unscored: (3 + 2/2) / 6."""
    found = win_rate(verdicts(WIN, WIN, WIN, TIE, BIASED, LOSS, (None, "tie")))
    assert found.value == pytest.approx(4 / 6)
    counts = (found.n, found.n_wins, found.n_ties, found.n_losses)
    assert counts == (6, 3, 2, 1)
    assert (found.n_inconsistent, found.n_unscored) == (1, 1)


def test_standard_error() -> None:
    """Outcomes 1, 1, 0, 0: SD^2 = 1/3, SE = 1/sqrt(12); four prompts are too few to find any."""
    found = win_rate(verdicts(WIN, WIN, LOSS, LOSS))
    assert found.standard_error == pytest.approx(12**-0.5)
    assert found.detectable is None


def test_the_distance_found_is_half_the_difference_of_wins_and_losses() -> None:
    """W - 1/2 = (wins - losses) / 2n, whichever side wins more."""
    given = verdicts(*[WIN] * 5, *[LOSS] * 3, *[TIE] * 42)
    expected = (detectable_verdicts(5, 3, 50) or 0) / 2
    assert win_rate(given).detectable == win_rate(exchanged(given)).detectable == expected


@pytest.mark.parametrize("seed", range(20))
def test_exchanging_the_models_gives_one_minus_the_rate(seed: int) -> None:
    """Exactly, with the counts and the interval mirrored."""
    source = generator("exchange", seed)
    places = list(itertools.product(("first", "second", "tie", None), repeat=2))
    given = verdicts(*(places[k] for k in source.integers(0, len(places), size=37)))
    one, other = win_rate(given), win_rate(exchanged(given))
    assert other.value == 1 - (one.value or 0)
    assert (other.n_wins, other.n_ties, other.n_losses) == (one.n_losses, one.n_ties, one.n_wins)
    assert (other.n_inconsistent, other.n_unscored) == (one.n_inconsistent, one.n_unscored)
    assert (other.low, other.high) == pytest.approx((1 - (one.high or 0), 1 - (one.low or 0)))
    if one.n_wins < one.n_losses:
        one, other = other, one
    assert (other.low, other.high) == (1 - (one.high or 0), 1 - (one.low or 0))


def test_a_model_against_itself_is_at_one_half() -> None:
    """A judge that knows nothing but places calls every prompt a tie by inconsistency.

    Of ten that says .36 to .64: +- z^2 / (n + z^2) / 2 around one half.
    """
    found = win_rate(verdicts(*[BIASED] * 10))
    assert (found.value, found.n_inconsistent) == (0.5, 10)
    assert (found.low, found.high) == pytest.approx((0.3612, 0.6388), abs=1e-4)


def test_a_clean_sweep_has_wilsons_interval() -> None:
    """Ten of ten won does not prove a rate of 1."""
    found = win_rate(verdicts(*[WIN] * 10))
    assert (found.low, found.high) == pytest.approx(wilson_interval(10, 10))
    assert found.high == 1


def test_without_scored_prompts_there_is_no_rate() -> None:
    """Null in JSON, neither 0 nor one half."""
    found = win_rate(verdicts((None, "first")))
    assert found == WinRate(None, None, None, 0, 0, 0, 0, 0, 1)
    assert json.loads(json.dumps(found.to_json()))["value"] is None


def test_the_order_of_prompts_does_not_matter() -> None:
    """The same verdicts in another order give the same interval, bit for bit."""
    given = verdicts(*[WIN] * 20, *[LOSS] * 9, *[TIE] * 6)
    assert win_rate(given[::-1]) == win_rate(given)


@pytest.mark.parametrize(
    ("win", "loss"), [(0.45, 0.25), (0.97, 0.01), (0.02, 0.01), (0.005, 0.0), (0.7, 0.3)]
)
def test_interval_covers(win: float, loss: float) -> None:
    """Of 300 experiments of 100 prompts at least 93% hold (1 + win - loss) / 2.

    Also where losses, or both, are rare. Three standard errors of 300 trials (0.044) to spare.
    """
    ties = max(0.0, 1 - win - loss)
    drawn = generator("cover", int(1_000 * win)).multinomial(100, [win, ties, loss], size=300)
    counts, often = np.unique(drawn, axis=0, return_counts=True)
    held = []
    for n_wins, n_ties, n_losses in counts:
        found = win_rate(verdicts(*[WIN] * n_wins, *[TIE] * n_ties, *[LOSS] * n_losses))
        held.append((found.low or 0) <= (1 + win - loss) / 2 <= (found.high or 0))
    assert often @ np.array(held) / 300 >= 0.93 - 0.044
