"""The certificate: by hand, and over 500 draws from fully labelled pools (T8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from tamis.errors import ConfigError, MismatchError
from tamis.selection.certificate import (
    KEPT_SHARES,
    Budget,
    CertifyConfig,
    Walk,
    attempt_delta,
    certify,
    certify_strata,
)
from tamis.selection.finite_population import p_values

N_DRAWS = 500
N_LABELS = 300
ALPHA, DELTA = 0.1, 0.1
# Were false certifications exactly as likely as allowed, 500 draws would hold more than this many
# with probability 0.001: a bound that a fixed seed cannot pass by luck, nor sampling fail often.
MOST_FALSE = int(binom.ppf(0.999, N_DRAWS, DELTA))
VALUES = -np.arange(1000.0)  # row 0 has the best score


def pool(*shares: tuple[int, float]) -> np.ndarray:
    """The truth about rows from the best score down: blocks of rows, each with a harmful share.

    Harmful rows are spread evenly within a block.
    """
    return np.concatenate([np.diff(np.floor(np.arange(n + 1) * p + 1e-9)) > 0 for n, p in shares])


def simulate(harmful: np.ndarray, **options: Any) -> list[Walk]:
    """Draw, label and certify 500 times."""
    walks = []
    for seed in range(N_DRAWS):
        drawn = np.random.default_rng(seed).choice(len(harmful), N_LABELS, replace=False)
        walks.append(
            certify(VALUES, drawn, harmful[drawn], alpha=ALPHA, delta=DELTA, **options)
        )  # fmt: skip
    return walks


def false_ones(harmful: np.ndarray, walks: list[Walk]) -> int:
    """Certified selections with more than alpha of harmful rows, by the whole truth."""
    return sum(
        step is not None and harmful[step.threshold <= VALUES].mean() > ALPHA
        for step in (walk.certified for walk in walks)
    )


@pytest.mark.parametrize(
    "harmful",
    [
        pool((1000, 0.107)),  # one harmful row too many in the first selection
        pool((300, 0.0667), (50, 0.32), (650, 0.11)),  # too many from the fifth on
        pool((1000, 0.3)),
    ],
    ids=["just too many from the start", "too many later", "far too many"],
)
def test_false_certificates_are_as_rare_as_promised(harmful: np.ndarray) -> None:
    """T8: over 500 draws at most 72 are false, the 0.999 quantile of Binomial(500, delta = 0.1)."""
    assert MOST_FALSE == 72
    assert false_ones(harmful, simulate(harmful)) <= MOST_FALSE


def test_the_promise_is_used_up_where_it_can_be() -> None:
    """With one harmful row too many in the first selection, draws pass as often as computed.

    So the test above can fail. Given m labels among the 150 rows, of which 16 are harmful, a draw
    passes with the largest P(X <= k) that is at most delta; the mean over m is 0.0572, below delta
    because counts are whole.
    """
    harmful = pool((1000, 0.107))
    assert harmful[:150].sum() == 16
    m = np.arange(151)
    passing = hypergeom.cdf(np.arange(17)[:, None], 150, 16, m)
    given = np.where(passing <= DELTA, passing, 0).max(axis=0)
    rate = (given * hypergeom.pmf(m, 1000, 150, N_LABELS)).sum()
    assert rate == pytest.approx(0.0572, abs=0.0001)
    passed = sum(walk.certified is not None for walk in simulate(harmful))
    assert passed == pytest.approx(N_DRAWS * rate, abs=4 * np.sqrt(N_DRAWS * rate * (1 - rate)))


def test_choosing_the_best_of_all_thresholds_would_break_the_promise() -> None:
    """Without the order of the walk, some threshold that keeps too much harm passes too often."""
    harmful = pool((1000, 0.104))
    n_kept = np.array([round(share * 1000) for share in KEPT_SHARES])
    too_many = np.cumsum(harmful)[n_kept - 1] > ALPHA * n_kept
    false = 0
    for seed in range(N_DRAWS):
        drawn = np.random.default_rng(seed).choice(1000, N_LABELS, replace=False)
        inside = drawn[:, None] < n_kept
        counts = inside.sum(axis=0), (inside & harmful[drawn][:, None]).sum(axis=0)
        false += bool((p_values(n_kept, *counts, ALPHA) <= DELTA)[too_many].any())
    assert false > 1.2 * MOST_FALSE


def test_too_much_harm_on_top_is_refused() -> None:
    """T8: more than alpha in the first selection, and at least 1 - delta of the draws are refused.

    450 of 500, less the slack of the draws: 428.
    """
    harmful = pool((150, 0.12), (850, 0.5))
    refused = sum(walk.certified is None for walk in simulate(harmful))
    assert refused >= N_DRAWS - MOST_FALSE


def test_a_clean_top_is_certified() -> None:
    """No harm among the best 800 rows: every draw certifies, and at least half of them keep 700."""
    harmful = pool((800, 0.0), (200, 1.0))
    walks = simulate(harmful)
    assert all(walk.certified is not None for walk in walks)
    assert np.median([walk.require().n_kept for walk in walks]) >= 700
    assert false_ones(harmful, walks) <= MOST_FALSE


def test_everything_is_kept_where_nothing_is_harmful() -> None:
    """The walk goes on to the last share, 1."""
    walk = certify(VALUES, range(100), [False] * 100)
    assert walk.require().n_kept == 1000


def test_the_walk_stops_at_the_first_failure() -> None:
    """Later thresholds are not looked at, however well they would do.

    Of the best 200 rows 20 have a label; half of them are harmful. The 800 others are all
    harmless and labelled: keeping everything would have p near 0.
    """
    labelled = [*range(20), *range(200, 1000)]
    harmful = [i < 10 for i in labelled]
    walk = certify(VALUES, labelled, harmful, kept_shares=(0.2, 1.0))
    assert (len(walk.steps), walk.certified) == (1, None)
    alone = certify(VALUES, labelled, harmful, kept_shares=(1.0,))
    assert alone.certified is not None


def test_the_p_value_of_a_step_is_the_hypergeometric_one() -> None:
    """10 of 20 rows kept, 5 labelled, none harmful, alpha 0.1: two harmful rows would be too many.

    P(none of 5) = C(8, 5) / C(10, 5) = 56 / 252 = 2 / 9.
    """
    walk = certify(VALUES[:20], [0, 2, 4, 6, 8, 15], [False] * 5 + [True], kept_shares=(0.5,),
                   delta=0.3)  # fmt: skip
    (step,) = walk.steps
    assert (step.threshold, step.n_kept, step.n_labelled, step.n_harmful) == (-9.0, 10, 5, 0)
    assert step.p_value == pytest.approx(2 / 9, rel=1e-12)
    assert walk.certified == step
    assert (walk.n_labelled, walk.n_harmful) == (6, 1)


def test_all_rows_of_a_tie_are_kept_and_counted() -> None:
    """A share that ends within equal scores takes them all; shares that become equal are one."""
    values = np.array([3.0] + [2.0] * 4 + [1.0] * 5)
    walk = certify(values, [], [], kept_shares=(0.1, 0.2, 0.3, 1.0), delta=0.999)
    assert [step.n_kept for step in walk.steps] == [1]  # no labels: p is 1
    walk = certify(values, range(10), [False] * 10, kept_shares=(0.1, 0.2, 0.3, 1.0))
    assert [(step.threshold, step.n_kept) for step in walk.steps] == [(3, 1), (2, 5), (1, 10)]


def test_rows_without_a_score_are_never_kept() -> None:
    """Shares are of the scored rows; a label of an unscored row does not count."""
    values = np.array([np.nan, 3.0, 2.0, 1.0, np.nan, 0.0])
    walk = certify(values, [0, 1, 2, 3, 5], [True, False, False, False, False],
                   kept_shares=(0.5, 1.0))  # fmt: skip
    assert [step.n_kept for step in walk.steps] == [2, 4]
    assert walk.require().n_kept == 4
    assert (walk.n_scored, walk.n_unscored, walk.n_labelled, walk.n_harmful) == (4, 2, 4, 0)


def test_the_order_of_rows_does_not_matter() -> None:
    """Scores and labels permuted together give the same walk."""
    rng = np.random.default_rng(3)
    values, drawn = rng.normal(size=200), rng.choice(200, 80, replace=False)
    harmful = values < -1
    order = rng.permutation(200)
    place = np.argsort(order)
    one = certify(values, drawn, harmful[drawn])
    assert certify(values[order], place[drawn][::-1], harmful[drawn][::-1]) == one


def test_a_refusal_says_how_many_labels_would_do() -> None:
    """30 clean labels in all leave more than alpha possible; with none harmful more would do."""
    walk = certify(VALUES, range(0, 1000, 33), [False] * 31)
    with pytest.raises(
        ConfigError,
        match=r"0 of those are harmful.*none of them is harmful, about 1\d\d labels \(here: 31\)",
    ):
        walk.require()


def test_a_refusal_without_a_label_on_top_supposes_no_share() -> None:
    """Nothing is known of them: not that 0.0% are harmful."""
    walk = certify(VALUES, [500, 900], [False, True])
    with pytest.raises(ConfigError, match=r"0 have a label.*If none of them is harmful, about"):
        walk.require()


def test_every_refusal_says_what_another_draw_costs() -> None:
    """Whether labels, the ranking or alpha is to change: at half of this draw's delta."""
    for walk in (
        certify(VALUES, range(0, 1000, 33), [False] * 31),
        certify(VALUES, range(0, 1000, 4), [i % 8 == 0 for i in range(0, 1000, 4)]),
        certify(VALUES[:127], range(11), [True, *[False] * 10]),  # of 19 rows 2 would be harmful
    ):
        with pytest.raises(ConfigError, match=r"the next attempt, at half of this draw's delta"):
            walk.require()


def test_a_refusal_for_a_bad_ranking_asks_for_another() -> None:
    """Half of the labelled rows on top are harmful: labels are not what is missing."""
    walk = certify(VALUES, range(0, 1000, 4), [i % 8 == 0 for i in range(0, 1000, 4)])
    with pytest.raises(ConfigError, match="More labels would not help"):
        walk.require()


def test_what_is_written_holds_the_walk_and_its_bounds() -> None:
    """Per step the largest share still possible; below alpha where the step passed."""
    walk = certify(VALUES, range(0, 1000, 2), [i > 600 for i in range(0, 1000, 2)])
    written = walk.to_json()
    bounds = [step["upper_bound"] for step in written["steps"]]
    passed = [step["p_value"] <= DELTA for step in written["steps"]]
    assert passed == [True] * (len(passed) - 1) + [False]
    assert [bound <= ALPHA for bound in bounds] == passed
    assert written["certified"]["threshold"] == walk.require().threshold


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 0.0}, "certify.alpha"),
        ({"delta": 1.0}, "certify.delta"),
        ({"kept_shares": (0.5, 0.2)}, "kept_shares must rise"),
        ({"kept_shares": ()}, "kept_shares must rise"),
        ({"kept_shares": (0.5, 1.2)}, "kept_shares must rise"),
        ({"labelled": [1, 1], "harmful": [False, False]}, "labelled twice"),
        ({"labelled": [1000], "harmful": [False]}, "not one of the 1,000 rows"),
        ({"labelled": [-1], "harmful": [False]}, "not one of the 1,000 rows"),
        ({"labelled": [0.5, 1.7], "harmful": [False] * 2}, "position 0.5 is no whole number"),
        ({"labelled": [True, False], "harmful": [False] * 2}, "position True is no whole number"),
        ({"labelled": [2, True], "harmful": [False] * 2}, "position True is no whole number"),
        ({"harmful": [None]}, "label 0 is None, neither True nor False"),
        ({"harmful": [float("nan")]}, "label 0 is nan, neither True nor False"),
        ({"harmful": ["false"]}, "label 0 is 'false', neither True nor False"),
        ({"harmful": np.array([0])}, "label 0 is 0, neither True nor False"),
        ({"labelled": [1], "harmful": []}, "1 labelled rows but 0 labels"),
        ({"values": np.full(3, np.nan), "labelled": [], "harmful": []}, "none of the 3 rows"),
    ],
)
def test_what_cannot_be_certified_is_refused(options: dict[str, Any], said: str) -> None:
    """Each with what was given."""
    given = {"values": VALUES, "labelled": [0], "harmful": [False], **options}
    with pytest.raises(ConfigError, match=said):
        certify(given.pop("values"), given.pop("labelled"), given.pop("harmful"), **given)


@pytest.mark.parametrize("labels", [[np.True_, False], np.array([True, False], dtype=object)])
def test_bools_of_any_container_are_labels(labels: Any) -> None:
    """Of Python, of numpy, and in an array of objects as a table's column gives it."""
    assert certify(VALUES, np.array([4, 9], dtype=np.uint16), labels).n_harmful == 1


def test_labels_of_strata_are_checked_alike() -> None:
    """A row without an answer is harmless in none of them."""
    with pytest.raises(ConfigError, match="label 1 is None"):
        certify_strata(VALUES[:4], ["a"] * 4, [0, 1], [False, None], {"a": Budget(0.1, 0.1)},
                       delta=0.1)  # fmt: skip


def test_an_alpha_that_rounds_to_one_certifies_nothing_by_itself() -> None:
    """Ten harmful labels of ten, of 1,000 rows: that all of them are harmful is not ruled out."""
    walk = certify(VALUES, range(10), [True] * 10, alpha=1 - 1e-12, delta=1e-6)
    assert (walk.certified, walk.steps[0].p_value) == (None, 1.0)


def test_attempts_together_err_no_more_than_one_may() -> None:
    """Up to four draws until one passes: with delta / 2^k at most 72 of 500 users are misled.

    With all of delta for each it would be 21% of them, for every such draw errs in 5.7%.
    """
    harmful = pool((1000, 0.107))
    assert sum(attempt_delta(DELTA, k) for k in range(1, 60)) == pytest.approx(DELTA, rel=1e-12)
    shared = whole = 0
    for seed in range(N_DRAWS):
        rng = np.random.default_rng([seed, 1])
        draws = [rng.choice(1000, N_LABELS, replace=False) for _ in range(4)]
        inside = [drawn[drawn < 150] for drawn in draws]
        found = p_values(150, [len(top) for top in inside], [harmful[top].sum() for top in inside],
                         ALPHA)  # fmt: skip
        shared += any(p <= attempt_delta(DELTA, k) for k, p in enumerate(found, 1))
        whole += any(found <= DELTA)
    assert shared <= MOST_FALSE
    assert whole > MOST_FALSE


def test_the_first_share_is_15_percent_and_the_last_everything() -> None:
    """The default walk, in steps of 5%."""
    assert (len(KEPT_SHARES), KEPT_SHARES[:3], KEPT_SHARES[-1]) == (18, (0.15, 0.2, 0.25), 1.0)
    assert CertifyConfig().kept_shares == KEPT_SHARES


def test_strata_are_certified_each_by_itself() -> None:
    """Rows of a stratum are walked as if there were no others, at its own alpha and delta."""
    strata = ["a" if i % 2 else "b" for i in range(1000)]
    drawn = np.random.default_rng(5).choice(1000, 600, replace=False)
    harmful = np.array([i % 2 == 0 and i > 500 for i in range(1000)])
    budgets = {"a": Budget(0.05, 0.02), "b": Budget(0.2, 0.08)}
    walks = certify_strata(VALUES, strata, drawn, harmful[drawn], budgets, delta=0.1)
    for name, budget in budgets.items():
        inside = np.array(strata) == name
        chosen = drawn[inside[drawn]]
        alone = certify(np.where(inside, VALUES, np.nan), chosen, harmful[chosen],
                        alpha=budget.alpha, delta=budget.delta)  # fmt: skip
        assert walks[name].steps == alone.steps
        assert walks[name].n_scored == 500
    assert walks["a"].require().n_kept == 500


def test_strata_may_not_spend_more_than_delta() -> None:
    """Their deltas are what the union bound adds up."""
    budgets = {"a": Budget(0.1, 0.06), "b": Budget(0.1, 0.05)}
    with pytest.raises(ConfigError, match=r"sum to 0\.11, more than delta=0\.1"):
        certify_strata(VALUES[:2], ["a", "b"], [], [], budgets, delta=0.1)


def test_every_stratum_needs_a_budget() -> None:
    """A stratum without one would be dropped without a word."""
    with pytest.raises(MismatchError, match="in strata a, b, budgets are given for a"):
        certify_strata(VALUES[:2], ["a", "b"], [], [], {"a": Budget(0.1, 0.1)}, delta=0.1)
