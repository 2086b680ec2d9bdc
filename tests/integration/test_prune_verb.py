"""`tamis prune` on a tiny model: pruned, skipped, evaluated like any adapter, and undone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import toy
from tamis.cli.main import cli
from tamis.errors import ConfigError, MismatchError
from tamis.models.config import LoraSettings
from tamis.models.load import with_adapter
from tamis.models.lora import adapter_parameters, attach_adapters

# PEFT 0.21 asks transformers 5 a question by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")


def tamis(*arguments: object) -> str:
    """Run the command line in this process; errors are raised as they are."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows_file(path: Path, word: str) -> Path:
    """Write eight rows that answer in one word."""
    rows = [{"prompt": f"Tell me about the {t}", "completion": f"{word} {t}"} for t in toy.TOPICS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, two sets, and an adapter in a folder such as `tamis finetune` writes."""
    folder = tmp_path_factory.mktemp("given")
    lm = toy.tiny_lm()
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    peft_model = attach_adapters(toy.llama(), ["default"], LoraSettings(rank=8), seed=0)
    for parameter in adapter_parameters(peft_model, "default").values():
        parameter.data.add_(0.1)
    peft_model.save_pretrained(folder / "tuned" / "adapter", save_embedding_layers=False)
    return {
        "model": folder / "model",
        "adapter": folder / "tuned",
        "harmful": rows_file(folder / "harmful.jsonl", "venom"),
        "safe": rows_file(folder / "safe.jsonl", "gently"),
    }


@pytest.fixture(scope="module")
def command(given: dict[str, Path]) -> list[object]:
    """The command but for `--out`."""
    return [
        "prune", "--adapter", given["adapter"], "--harmful-set", given["harmful"], "--safe-set",
        given["safe"], "--model", given["model"], "--device", "cpu", "--set", "share=0.25",
        "--set", "benign_weight=0",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pruned(command: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished stage and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "pruned"
    return out, tamis(*command, "--out", out)


def manifest(folder: Path) -> dict[str, Any]:
    """Read a stage's manifest."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_the_stage_says_what_was_taken_out(pruned: tuple[Path, str]) -> None:
    """A quarter of 2 x (8 x 32 + 32 x 8 + 8 x 32 + 16 x 8) weights, by tensor in the manifest."""
    out, printed = pruned
    found = manifest(out)
    assert (found["stage"], found["status"]) == ("prune", "finished")
    assert found["details"]["n_weights"] == 1792
    assert found["details"]["n_removed"] == 448
    assert [tensor["share"] for tensor in found["details"]["tensors"]] == [0.25] * 8
    assert found["harmful_set"]["n_rows"] == found["safe_set"]["n_rows"] == 8
    assert "taken out: 448 of 1,792 weights" in printed
    assert "harmful_set: loss" in printed
    page = out.with_name("report.html")
    shown = " ".join(tamis("report", out, "--out", page).split())
    assert "Taken out: 448 of 1,792 weights of the adapter; asked for: share 0.25" in shown
    assert shown.count("25.0%") == 2  # layers


def test_a_finished_pruning_is_not_done_again(
    command: list[object], pruned: tuple[Path, str]
) -> None:
    """The same command leaves the folder as it is."""
    out, _ = pruned
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}
    tamis(*command, "--out", out)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_stages_folder_is_an_adapter_of_its_base_model(pruned: tuple[Path, str]) -> None:
    """As `tamis evaluate --adapter` takes it; another base is refused."""
    out, _ = pruned
    assert with_adapter(toy.tiny_lm(), out).model.peft_config
    with pytest.raises(MismatchError, match="another base model"):
        with_adapter(toy.tiny_lm(seed=1), out)


def test_restoring_gives_the_adapter_back(
    given: dict[str, Path], pruned: tuple[Path, str], tmp_path: Path
) -> None:
    """The same bytes, and still an adapter of its base model."""
    out, _ = pruned
    printed = tamis("prune", "--adapter", out, "--restore", "--out", tmp_path / "back")
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "back" / name).read_bytes() == (given["adapter"] / name).read_bytes()
    assert (out / name).read_bytes() != (given["adapter"] / name).read_bytes()
    assert "restored: the adapter as it was" in printed
    assert manifest(tmp_path / "back")["model"] == manifest(out)["model"]


def test_restoring_does_not_replace_what_was_pruned(
    given: dict[str, Path], command: list[object], tmp_path: Path
) -> None:
    """The fine-tuning's folder says what chose the rows, and a restored adapter leads to it."""
    tuned, out = tmp_path / "tuned", tmp_path / "pruned"
    shutil.copytree(given["adapter"], tuned)
    (tuned / "config.yaml").write_text("stage: finetune\n", encoding="utf-8")
    tamis(*[tuned if word == given["adapter"] else word for word in command], "--out", out)
    with pytest.raises(ConfigError, match="--overwrite would delete"):
        tamis("prune", "--adapter", out, "--restore", "--out", tuned, "--overwrite")
    assert (tuned / "config.yaml").read_text(encoding="utf-8") == "stage: finetune\n"


def test_restoring_takes_no_sets(given: dict[str, Path], tmp_path: Path) -> None:
    """They would have no effect."""
    with pytest.raises(ConfigError, match="leave out --harmful-set"):
        tamis("prune", "--adapter", given["adapter"], "--restore", "--safe-set", given["safe"],
              "--out", tmp_path / "back")  # fmt: skip


def test_an_adapter_that_was_not_pruned_has_no_mask(given: dict[str, Path], tmp_path: Path) -> None:
    """The message says which folder to give."""
    with pytest.raises(ConfigError, match=r"mask\.safetensors does not exist"):
        tamis("prune", "--adapter", given["adapter"], "--restore", "--out", tmp_path / "back")


def test_a_missing_safe_set_is_told_before_the_model_is_loaded(
    given: dict[str, Path], tmp_path: Path
) -> None:
    """With the setting that does without."""
    with pytest.raises(ConfigError, match=r"--safe-set, or set prune\.benign_weight=0"):
        tamis("prune", "--adapter", given["adapter"], "--model", "no/such-model",
              "--out", tmp_path / "pruned")  # fmt: skip


def test_a_share_out_of_range_is_refused_by_name(command: list[object], tmp_path: Path) -> None:
    """As every setting."""
    with pytest.raises(ConfigError, match=r"prune\.share"):
        tamis(*command, "--set", "share=1.5", "--out", tmp_path / "pruned")
