"""Methods from outside that do not keep their promises are refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError, model_validator

import toy
from tamis.errors import ConfigError, DataError, MismatchError
from tamis.methods import settings_error
from tamis.methods.base import rank
from tamis.methods.scores import Scores

ROWS = [("ember", "water"), ("crack", "venom")]


def scores(values: Any = (0.5, 1.0), **changes: Any) -> Scores:
    """Return scores of the two rows."""
    ids = toy.examples(ROWS).ids
    found = np.asarray(values)
    return Scores("mine", ids, [None] * 2, found, ["ok"] * 2, None, **changes)


class Mine:
    """Gives back whatever it was made with."""

    requires: ClassVar[Any] = frozenset()

    def __init__(self, found: Any) -> None:
        self.found = found

    def rank(self, inputs: Any) -> Any:
        """Give it."""
        return self.found


def ranked(found: Any) -> Scores:
    """Rank the two rows."""
    return rank(toy.examples(ROWS), Mine(found), name="mine")


def test_what_is_right_is_taken() -> None:
    """The scores as they were given."""
    assert ranked(scores()).values.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("found", [None, np.array([1.0, 2.0])])
def test_only_scores_are_scores(found: Any) -> None:
    """The message names what was returned."""
    with pytest.raises(MismatchError, match=f"'mine' returned {type(found).__name__}, not Scores"):
        ranked(found)


@pytest.mark.parametrize("value", [np.float32(0.5), float("nan"), {1, 2}])
def test_details_must_fit_json(value: Any) -> None:
    """They go into the manifest."""
    with pytest.raises(DataError, match="mine gave details that JSON cannot hold"):
        scores(details={"value": value})


@pytest.mark.parametrize("values", [["a", "b"], [[1.0], [2.0]], [True, False]])
def test_scores_are_numbers_in_a_row(values: Any) -> None:
    """Neither words nor columns nor verdicts."""
    with pytest.raises(DataError, match=r"mine gave values of type .* scores are 2 numbers"):
        scores(values)


def test_scores_that_order_nothing_say_so() -> None:
    """All scored rows alike; one row has no order, two that differ have one."""
    (said,) = scores([0.0, -0.0]).order_notes()
    assert said.startswith("all 2 scored rows have one score")
    assert scores([0.0, 1.0]).order_notes() == []
    ids = toy.examples(ROWS).ids
    one = Scores("mine", ids, [None] * 2, np.array([0.0, np.nan]), ["ok", "too_long"], None)
    assert one.order_notes() == []


class Faulty(Mine):
    """Ends in an error of its own, or refuses."""

    def __init__(self, error: Exception) -> None:
        super().__init__(scores())
        self.error = error

    def rank(self, inputs: Any) -> Any:
        """Raise it."""
        raise self.error


def test_a_fault_of_an_outside_method_names_it() -> None:
    """A refusal is in the method's own words already."""
    with pytest.raises(ZeroDivisionError) as caught:
        rank(toy.examples(ROWS), Faulty(ZeroDivisionError("1 / 0")), name="mine")
    assert caught.value.__notes__ == [
        f"raised while 'mine' ranked: a method of {__name__}, not of tamis"
    ]
    with pytest.raises(ConfigError) as refused:
        rank(toy.examples(ROWS), Faulty(ConfigError("give more")), name="mine")
    assert not hasattr(refused.value, "__notes__")


def test_a_class_is_no_method() -> None:
    """An object of it is."""
    with pytest.raises(ConfigError, match=r"the class Mine: give an object, as of Mine\(\)"):
        rank(toy.examples(ROWS), Mine)


def test_a_readout_is_finite_too() -> None:
    """The message names it."""
    with pytest.raises(DataError, match="infinite number in score_second"):
        scores(columns={"score_second": np.array([1.0, -np.inf])})


def test_a_column_of_the_table_cannot_be_replaced() -> None:
    """It would be lost on reading."""
    with pytest.raises(DataError, match="further columns named score: these names"):
        scores(columns={"score": np.array([1.0, 2.0])})


@pytest.mark.parametrize("requires", [None, "safe_set", {"banana"}, ["model"]])
def test_requirements_are_a_set_of_known_names(requires: Any) -> None:
    """A text would be read letter by letter."""
    method = Mine(scores())
    method.requires = requires  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"mine has requires = .*no set of harmful_set, model"):
        rank(toy.examples(ROWS), method, name="mine")


def test_scores_that_do_not_exist_are_said_not_to(tmp_path: Path) -> None:
    """Not that they cannot be read."""
    with pytest.raises(DataError, match=r"nope does not exist\. Give the folder"):
        Scores.read(tmp_path / "nope")


class Part(BaseModel):
    """Settings with a choice among kinds, checked as a whole."""

    rule: Literal["a", "b"] | int = "a"

    @model_validator(mode="after")
    def _right(self) -> Self:
        if self.rule == "b":
            raise ValueError("b is not for today")
        return self


@pytest.mark.parametrize(
    ("rule", "told"), [("b", "settings: b is not"), ("c", "settings.rule: Input should be 'a' or")]
)
def test_faults_of_settings_are_told_without_the_checkers_words(rule: str, told: str) -> None:
    """Neither "Value error" nor its name of a choice, and a whole has no second name."""
    with pytest.raises(ValidationError) as refused:
        Part.model_validate({"rule": rule})
    found = str(settings_error("settings", refused.value))
    assert found.startswith(told)
    assert "literal[" not in found


def test_names_and_plain_records_are_told_what_to_become() -> None:
    """`rank` takes what `build_method` and `load_examples` return."""
    rows: Any = [{"prompt": "Bread?", "response": "Flour and water."}]
    name: Any = "trivial"
    with pytest.raises(ConfigError, match=r"build_method\('trivial'\) of tamis.methods"):
        rank(toy.examples(ROWS), name)
    with pytest.raises(ConfigError, match=r"not loaded: give load_examples"):
        rank(rows, Mine(scores()))
