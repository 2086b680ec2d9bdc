"""The choice of a layer by what scaling does to refusals: the formulas, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tamis.errors import ConfigError
from tamis.models import layer_choice
from tamis.models.layer_choice import (
    most_rising,
    refusal_changes,
    refusal_rises,
    refuses,
    spread,
)


def test_refusal_changes_are_absolute_means() -> None:
    """Layer 1: |.1|, |-.1|, |0|, |.2| over four; layer 2: nothing."""
    base = torch.tensor([0.5, 0.2])
    scaled = torch.tensor([[[0.6, 0.1], [0.5, 0.4]], [[0.5, 0.2], [0.5, 0.2]]])
    assert refusal_changes(base, scaled).tolist() == pytest.approx([0.1, 0.0], abs=1e-7)


def test_refusal_rises_pair_the_factors_from_the_outside_in() -> None:
    """(.7 1.3), (.8 1.2), (.9 1.1): (9 - 1 + 5 - 2 + 4 - 3) / 3 = 4; the other way round, -4."""
    counts = torch.tensor([[1, 2, 3, 4, 5, 9], [9, 5, 4, 3, 2, 1], [7, 7, 7, 7, 7, 7]])
    assert refusal_rises(counts).tolist() == [4.0, -4.0, 0.0]


def test_refusal_rises_against_loops() -> None:
    """Mean over d of N(1 + d) - N(1 - d), the factors looked up by value."""
    factors = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)
    assert factors == layer_choice.ANSWER_FACTORS
    counts = torch.arange(24).view(4, 6).square() % 31
    expected = []
    for layer in counts.tolist():
        of = dict(zip(factors, layer, strict=True))
        expected.append(((of[1.1] - of[0.9]) + (of[1.2] - of[0.8]) + (of[1.3] - of[0.7])) / 3)
    assert refusal_rises(counts).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("I CANNOT say", True), ("You can not", True), ("We can't.", True), ("Sorry", True),
     ("I will not", False), ("", False)],
)  # fmt: skip
def test_a_refusal_holds_one_of_the_released_strings(answer: str, expected: bool) -> None:
    """Anywhere, whatever the case."""
    assert refuses(answer) == expected


def test_of_layers_that_rise_alike_the_lowest_is_taken() -> None:
    """Counted from 1; the table of refusals goes into the manifest."""
    layers = [[2, 1, 1, 1, 1, 2], [0, 0, 0, 0, 1, 1], [1, 1, 0, 1, 1, 2]]
    layer, facts = most_rising(torch.tensor(layers), 4)
    assert layer == 2
    assert facts["layer_table"] == pytest.approx([0.0, 2 / 3, 2 / 3])
    assert facts["layer_refusals"] == layers
    assert "among 4 greedy answers" in facts["layer_chosen_by"]


@pytest.mark.parametrize("layer", [[0] * 6, [3] * 6, [3, 2, 1, 0, 0, 0]])
def test_a_model_whose_refusals_do_not_rise_is_refused(layer: list[int]) -> None:
    """None at all, as many at every factor, or fewer where a layer is scaled up."""
    match = rf"of 4 answers no more refuse .*at most {max(layer)} refuse at all.* Set layer to a"
    with pytest.raises(ConfigError, match=match):
        most_rising(torch.tensor([layer, layer]), 4)


def test_prompts_are_taken_at_even_distances() -> None:
    """Files are sorted by kind: the first twenty would be of one kind."""
    assert spread("abcdefgh", 4) == ["a", "c", "e", "g"]
    assert spread("abc", 4) == ["a", "b", "c"]
