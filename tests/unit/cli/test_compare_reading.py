"""What rankings of a comparison read of the model: named once, and never the end of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import toy
import toy_guard
from tamis.cli.compare import prepare, run_compare
from tamis.cli.compare_config import CompareConfig
from tamis.cli.compare_reading import features_of_all
from tamis.cli.plan_compare import plan_compare
from tamis.methods.loss import Loss

HERE = __name__


class Reads(Loss):
    """Reads what no model has."""

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """Name a layer above the last."""
        return {"finetuning_set": [f"state:{n_layers + 1}:response_mean"]}


class Fails(Loss):
    """Cannot say what it reads."""

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """Divide by zero."""
        raise ZeroDivisionError(str(n_layers))


def config(folder: Path, *methods: str, model: str | None = None, **settings: Any) -> CompareConfig:
    """Write twelve rows with labels, and return the settings of a comparison."""
    rows = [{"id": f"r{i}", "prompt": f"the lamp {i}", "completion": "gently share water"}
            for i in range(12)]  # fmt: skip
    labels = [{"id": f"r{i}", "harmful": i % 3 == 0} for i in range(12)]
    for name, lines in (("rows", rows), ("labels", labels)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    named: dict[str, Any] = {"uniform": {"name": "uniform"}}
    return CompareConfig.model_validate({
        "finetuning_set": str(folder / "rows.jsonl"), "labels": str(folder / "labels.jsonl"),
        "methods": named | {name.rpartition(":")[2]: {"name": name} for name in methods},
        "model": {"name": model or toy_guard.saved(toy.llama(), folder / "model")},
        "out": str(folder / "out"), "device": "cpu", "dtype": "float32", **settings,
    })  # fmt: skip


def test_features_are_those_of_rankings_to_do(tmp_path: Path) -> None:
    """Of every set; what is not of this model, or cannot be said, is left out."""
    found = config(tmp_path, "loss", "saft", f"{HERE}:Reads", f"{HERE}:Fails")
    lm = toy.tiny_lm()
    everything = features_of_all(found, set(found.methods), lm)
    assert everything["finetuning_set"][0] == "loss"
    states = everything["finetuning_set"][1:]
    assert states == everything["safe_set"]
    assert all(name.startswith("state:") for name in states)
    assert features_of_all(found, {"loss", "uniform"}, lm) == {"finetuning_set": ["loss"]}
    assert features_of_all(found, {"Reads", "Fails"}, lm) == {}


def test_a_method_that_cannot_say_what_it_reads_is_ranked_all_the_same(tmp_path: Path) -> None:
    """Its own ranking asks for what it needs."""
    found = run_compare(prepare(config(tmp_path, "loss", f"{HERE}:Fails")))
    assert found["refused"] == []
    assert {entry["method"] for entry in found["entries"]} == {"uniform", "loss", "Fails"}


def test_rows_that_no_template_renders_end_the_rankings_that_need_them(tmp_path: Path) -> None:
    """And no others, nor their expected time."""
    model = toy_guard.saved(toy.llama(), tmp_path / "plain", chat_template=None)
    prepared = prepare(config(tmp_path, "loss", model=model))
    uniform, loss = plan_compare(prepared).methods
    assert uniform.minutes is not None
    assert loss.minutes is None
    assert "chat template" in str(loss.refusal)
    found = run_compare(prepared)
    assert [entry["method"] for entry in found["entries"]] == ["uniform"]
    assert "chat template" in json.dumps(found["refused"])


def test_rows_too_long_to_render_end_the_rankings_that_need_them(tmp_path: Path) -> None:
    """Where that was asked for; methods without a model have their time told, and their figures."""
    render = {"max_prompt_tokens": 96, "max_response_tokens": 2, "on_too_long": "error"}
    prepared = prepare(config(tmp_path, "loss", render=render))
    uniform, loss = plan_compare(prepared).methods
    assert uniform.minutes is not None
    assert "max_response_tokens=2" in str(loss.refusal)
    found = run_compare(prepared)
    assert [entry["method"] for entry in found["entries"]] == ["uniform"]
    assert "max_response_tokens=2" in json.dumps(found["refused"])


@pytest.mark.parametrize(("layer", "expected"), [
    ("auto", {}), (1, {"finetuning_set": ["state:1:response_last"]}),
])  # fmt: skip
def test_a_layer_that_is_set_is_named(layer: object, expected: dict[str, Any]) -> None:
    """One that is yet to be chosen is not."""
    from tamis.methods import build_method, reads_of

    assert reads_of(build_method("direction", {"layer": layer}), 2) == expected
