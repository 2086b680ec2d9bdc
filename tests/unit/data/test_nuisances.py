"""Facts of rows that can pass for harm, as columns and as an audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toy
from tamis.data.load import load_examples
from tamis.data.nuisances import (
    Facts,
    audit_notes,
    nuisance_audit,
    nuisance_columns,
    row_facts,
    source_of,
)
from tamis.data.template import render
from tamis.errors import ConfigError


def facts_of(lengths: list[float], sources: list[str]) -> Facts:
    """Rows of given prompt lengths and sources, of constant response length and one turn."""
    ones = np.ones(len(lengths))
    return {"prompt_length": np.array(lengths), "response_length": ones, "turns": ones,
            "source": np.array(sources)}  # fmt: skip


HALVES = facts_of([*range(20)], ["a"] * 10 + ["b"] * 10)


def test_facts_are_read_from_rows() -> None:
    """Logs of the rendered counts, user turns, the record's source; in the order asked for."""
    turns = [{"role": "user", "content": "river"}, {"role": "assistant", "content": "water"}]
    rows = load_examples([{"messages": turns, "source": "x"}, {"messages": turns * 3}])
    rendered = render(rows, toy.tokenizer())
    facts = row_facts(rows, rendered, [1, 0])
    assert facts["turns"].tolist() == [3.0, 1.0]
    assert facts["source"].tolist() == ["", "x"]
    for name, column in (("prompt_length", "n_prompt_tokens"),
                         ("response_length", "n_response_tokens")):  # fmt: skip
        np.testing.assert_allclose(np.exp(facts[name]), rendered.column(column)[[1, 0]])


def test_the_file_is_the_source_where_the_record_names_none(tmp_path: Path) -> None:
    """Or another field of the record, when told."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "river", "completion": "water", "origin": 7}\n')
    (row,) = load_examples(path)
    assert Path(source_of(row)).name == "rows.jsonl"
    assert source_of(row, "origin") == "7"


def test_columns_are_centred_and_scaled_and_constants_left_out() -> None:
    """Of three numbers only the prompt's length varies."""
    columns = nuisance_columns(HALVES, HALVES, ("prompt_length", "response_length", "turns"))
    assert columns.shape == (20, 1)
    np.testing.assert_allclose([columns.mean(), columns.std()], [0, 1], atol=1e-12)


def test_other_rows_are_scaled_as_the_pool_is() -> None:
    """The pool's mean length 9.5 becomes 0 in any set."""
    other = facts_of([9.5, 9.5], ["a", "b"])
    columns = nuisance_columns(other, HALVES, ("prompt_length",))
    np.testing.assert_allclose(columns, np.zeros((2, 1)))


def test_a_source_that_the_pool_lacks_stands_at_the_mean() -> None:
    """Of two halves, "b" is one sd above, "a" one below, "c" at 0."""
    other = facts_of([0, 0, 0], ["a", "b", "c"])
    np.testing.assert_allclose(nuisance_columns(other, HALVES, ("source",))[:, 0], [-1, 1, 0])


@pytest.mark.parametrize("sources", [["a"] * 20, [str(i) for i in range(20)]])
def test_one_source_or_one_a_row_cannot_be_taken_out(sources: list[str]) -> None:
    """The message counts them."""
    facts = facts_of([*range(20)], sources)
    with pytest.raises(ConfigError, match=rf"20 rows have {len(set(sources))} sources, .* 2 to 2"):
        nuisance_columns(facts, facts, ("source",))


def test_the_audit_is_spearmans_rho() -> None:
    """Falling along the length, however bent: -1. What does not vary has no rho."""
    audit = nuisance_audit(-np.exp(HALVES["prompt_length"]), HALVES)
    assert audit["prompt_length"] == pytest.approx(-1)
    assert audit["response_length"] is None
    assert audit["turns"] is None


def test_the_audit_of_sources_is_eta_squared() -> None:
    """Means 0 and 2 with variance 1 inside each: 1 of 2 parts lies between sources."""
    values = np.array([-1.0, 1.0] * 5 + [1.0, 3.0] * 5)
    assert nuisance_audit(values, HALVES)["source"] == pytest.approx(0.5)


def test_sources_of_single_rows_are_not_audited() -> None:
    """They would explain anything."""
    facts = facts_of([*range(20)], [str(i) for i in range(20)])
    assert nuisance_audit(np.arange(20.0), facts)["source"] is None


def test_notes_name_what_passes_one_half() -> None:
    """A rho of -.6 and an eta^2 of .3 (eta .55) do, .5 and .2 do not, and nothing is no number."""
    audits: dict[str, dict[str, float | None]] = {
        "score": {"prompt_length": -0.6, "turns": 0.5, "source": 0.2, "response_length": None},
        "direction 1": {"source": 0.3},
    }
    assert audit_notes(audits) == [
        "Score follows prompt length (rho -0.60): it may rank by that, not by harm.",
        "Direction 1 follows source (eta^2 0.30): it may rank by that, not by harm.",
    ]
