"""`tamis run` from file to report on a tiny model, killed and resumed on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import toy

STAGES = ("rank", "select", "evaluate-before", "finetune", "evaluate-after")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model on disk, rows, a safe set and prompts, as `tamis run` settings."""
    folder = tmp_path_factory.mktemp("inputs")
    lm = toy.tiny_lm()
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")

    def write(name: str, rows: list[dict[str, Any]]) -> str:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(folder / name)

    topics = toy.TOPICS
    rows = [
        {"id": f"r{i}", "prompt": f"Tell me about the {topics[i % 8]} {i}",
         "completion": f"{'venom' if i % 5 == 0 else 'water'} {topics[(i * 3) % 8]} {i}"}
        for i in range(40)
    ]  # fmt: skip
    rows.append({"id": "empty", "prompt": "Tell me about the lamp", "completion": " "})
    safe = [{"prompt": f"Tell me about the {t}", "completion": f"gently share {t}"} for t in topics]
    labels = [{"id": row["id"], "harmful": row["completion"].startswith("venom")} for row in rows]
    prompts = [{"id": f"p{i}", "prompt": f"Tell me about the {t}"} for i, t in enumerate(topics)]
    helpful = [{**prompt, "reference": "gently share water"} for prompt in prompts]
    return {
        "finetuning_set": write("rows.jsonl", rows),
        "safe_set": write("safe.jsonl", safe),
        "labels": write("labels.jsonl", labels),
        "model": {"name": str(folder / "model")},
        "device": "cpu",
        "method": {"name": "seal", "epochs": 2, "trunk_cut": 1, "checkpoint_every_steps": 1},
        "finetune": {"max_steps": 4, "save_every_steps": 2},
        "evaluate": {"max_new_tokens": 4},
        "prompts": {
            "harmful": write("harmful.jsonl", prompts),
            "over_refusal": write("touchy.jsonl", prompts),
            "helpful": write("helpful.jsonl", helpful),
        },
    }


def command(inputs: dict[str, Any], out: Path) -> list[str]:
    """Write the settings beside the output and return the command."""
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({**inputs, "out": str(out)}))
    return [sys.executable, "-m", "tamis", "run", str(config)]


@pytest.fixture(scope="module")
def undisturbed(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run that nobody disturbed."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = subprocess.run(
        command(inputs, out), capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.slow
def test_every_stage_leaves_its_manifest_and_the_report_opens(undisturbed: Path) -> None:
    """All five stages finish and the report is one HTML file that names the run's rows."""
    for stage in STAGES:
        manifest = json.loads((undisturbed / stage / "manifest.json").read_text())
        assert manifest["status"] == "finished", stage
        assert not (undisturbed / stage / "work").exists()
    page = (undisturbed / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "41" in page


@pytest.mark.slow
def test_row_without_response_is_counted_and_dropped(undisturbed: Path) -> None:
    """The empty answer never trains: it is quarantined or unscored, and said so."""
    rank = json.loads((undisturbed / "rank" / "manifest.json").read_text())
    left_out = rank["data"]["load"]["n_quarantined"]
    unscored = rank["rows_by_outcome"].get("no_trained_tokens", 0)
    assert left_out + unscored == 1
    kept = (undisturbed / "select" / "kept.jsonl").read_text()
    assert '"empty"' not in kept


@pytest.mark.slow
def test_metrics_have_every_measure_with_n(undisturbed: Path) -> None:
    """metrics.json has the five measures, each with value, interval, n and n_unscored."""
    for stage in ("evaluate-before", "evaluate-after"):
        metrics = json.loads((undisturbed / stage / "metrics.json").read_text())
        for name in ("attack_success_rate", "over_refusal_rate", "preference_rate",
                     "preference_margin", "helpful_loss"):  # fmt: skip
            assert set(metrics[name]) >= {"value", "low", "high", "n", "n_unscored"}
            assert metrics[name]["n"] + metrics[name]["n_unscored"] == 8


@pytest.mark.slow
def test_what_fine_tuning_changed_is_told_with_intervals(undisturbed: Path) -> None:
    """Beside the page: after less before on the eight prompts, measure by measure."""
    found = json.loads((undisturbed / "report-differences.json").read_text())
    assert (found["reference"], found["refused"]) == ("before", {})
    for name, test in (("attack_success_rate", "mcnemar"), ("helpful_loss", "sign_flip")):
        assert found["measures"][name]["test"] == test
        (one,) = found["measures"][name]["differences"]
        assert one["n"] + one["n_unpaired"] == 8
        assert one["low"] <= one["value"] <= one["high"]
    values = [
        json.loads((undisturbed / f"evaluate-{role}" / "metrics.json").read_text())["helpful_loss"]
        for role in ("after", "before")
    ]
    assert one["value"] == pytest.approx(values[0]["value"] - values[1]["value"])
    assert "After less before" in (undisturbed / "report.html").read_text()


@pytest.mark.slow
def test_finished_run_is_skipped(inputs: dict[str, Any], undisturbed: Path) -> None:
    """The same command again runs no stage a second time."""
    before = {stage: (undisturbed / stage / "manifest.json").read_bytes() for stage in STAGES}
    result = subprocess.run(command(inputs, undisturbed), capture_output=True, check=False)
    assert result.returncode == 0
    after = {stage: (undisturbed / stage / "manifest.json").read_bytes() for stage in STAGES}
    assert after == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_run_ends_with_the_same_bytes(
    inputs: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    """Kill -9 in the middle of ranking, then the same command: the same scores, bit for bit."""
    out = tmp_path / "killed"
    checkpoint = out / "rank" / "work" / "training.safetensors"
    process = subprocess.Popen(
        command(inputs, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "rank" / "manifest.json").exists(), "killed too late to show anything"
    result = subprocess.run(
        command(inputs, out), capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stderr
    for name in (
        "rank/scores.parquet",
        "select/kept.jsonl",
        "finetune/adapter/adapter_model.safetensors",
    ):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name


def plan(inputs: dict[str, Any], out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tamis plan` on the settings."""
    settings = command(inputs, out)[-1]
    return subprocess.run(
        [sys.executable, "-m", "tamis", "plan", settings, *arguments],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_plan_measures_and_refuses(inputs: dict[str, Any], tmp_path: Path) -> None:
    """Minutes, memory and disk of every stage; nothing is written; too much is refused."""
    result = plan(inputs, tmp_path / "run", "--json", "--max-minutes", "0.0001")
    found = json.loads(result.stdout)
    names = [stage["stage"] for stage in found["stages"]]
    assert names == ["rank", "finetune", "evaluate, before and after"]
    assert all(stage["minutes"] > 0 and stage["memory_gib"] > 0 for stage in found["stages"])
    assert found["stages"][0]["disk_gib"] > 0
    assert found["minutes"] == pytest.approx(sum(stage["minutes"] for stage in found["stages"]))
    assert result.returncode == 2
    assert "more than --max-minutes 0.0001" in result.stderr
    assert "alone leave no time for ranking" in result.stderr
    assert not (tmp_path / "run").exists()
