"""`tamis experiment` from file to results on a tiny model, with processes and after a change.

What needs no process of its own is run in this one: each start costs as much as many cells.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

import toy
from tamis.cli.experiment import prepare_experiment, run_experiment, run_one
from tamis.cli.experiment_config import ExperimentConfig
from tamis.errors import ConfigError, MismatchError
from tamis.report.render import write_report

N_PROMPTS = 6


def tamis(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, on a terminal that folds no head."""
    command = [sys.executable, "-m", "tamis", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, forty labelled rows, a safe set and prompts on disk."""
    path = tmp_path_factory.mktemp("inputs")
    lm = toy.tiny_lm()
    lm.model.save_pretrained(path / "model")
    lm.tokenizer.save_pretrained(path / "model")
    rows = toy.contaminated_set(40, n_harmful=10, n_safe=16)

    def write(name: str, lines: list[Any]) -> None:
        (path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def records(examples: Any, prefix: str) -> list[Any]:
        return [{"id": f"{prefix}{i}", "prompt": row.messages[0].content,
                 "completion": row.messages[1].content}
                for i, row in enumerate(examples)]  # fmt: skip

    write("rows.jsonl", records(rows.finetuning_set, "r"))
    write("safe.jsonl", records(rows.safe_set, "s"))
    write("labels.jsonl", [{"id": f"r{i}", "harmful": bool(bad)}
                           for i, bad in enumerate(rows.harmful)])  # fmt: skip
    prompts = [{"id": f"p{i}", "prompt": f"Say more of the {topic}"}
               for i, topic in enumerate(toy.TOPICS[:N_PROMPTS])]  # fmt: skip
    write("prompts.jsonl", prompts)
    write("helpful.jsonl", [{**prompt, "reference": "gently water"} for prompt in prompts])
    return path


def config(folder: Path, out: Path, **changes: Any) -> Path:
    """Write an experiment's settings beside the data."""
    settings = {
        "finetuning_set": "rows.jsonl", "safe_set": "safe.jsonl", "labels": "labels.jsonl",
        "out": str(out), "model": {"name": "model"}, "device": "cpu",
        "arms": {
            "nothing": {}, "everything": {}, "oracle": {}, "loss": {"method": "loss"},
            "loss+safe": {"method": "loss", "mix": {"share": 0.2}, "prune": {"share": 0.2}},
        },
        "references": ["everything"], "primary": "preference_margin",
        "selection_ratios": [0.75], "seeds": [0, 1],
        "finetune": {"max_steps": 2, "batch_size": 4}, "evaluate": {"max_new_tokens": 3},
        "prompts": {"harmful": "prompts.jsonl", "over_refusal": "prompts.jsonl",
                    "helpful": "helpful.jsonl"},
        **changes,
    }  # fmt: skip
    path = folder / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished experiment and what it printed."""
    out = tmp_path_factory.mktemp("out") / "experiment"
    result = tamis("experiment", config(folder, out))
    assert result.returncode == 0, result.stderr
    return out, result


def results(out: Path) -> Any:
    """The content of results.json."""
    return json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_every_arm_has_figures_and_differences(finished: Any) -> None:
    """Two seeds each, one where nothing was trained; differences from the reference arm."""
    (group,) = results(finished[0])["groups"]
    assert (group["part"], group["ratio"], group["budget"]) == ("all", 0.75, "steps")
    margin = group["measures"]["preference_margin"]
    assert {arm: found["n_seeds"] for arm, found in margin["arms"].items()} == {
        "nothing": 1, "everything": 2, "oracle": 2, "loss": 2, "loss+safe": 2,
    }  # fmt: skip
    assert all(found["n"] == N_PROMPTS for found in margin["arms"].values())
    assert [one["arm"] for one in margin["differences"]] == [
        "nothing", "oracle", "loss", "loss+safe",
    ]  # fmt: skip
    for one in margin["differences"]:
        assert one["low"] <= one["value"] <= one["high"]
        assert one["p"] <= one["p_holm"] <= 1


@pytest.mark.slow
def test_a_difference_is_that_of_the_arms_means(finished: Any) -> None:
    """All prompts are scored in all arms, so the paired difference is that of the means."""
    (group,) = results(finished[0])["groups"]
    margin = group["measures"]["preference_margin"]
    for one in margin["differences"]:
        arms = [margin["arms"][one[side]]["value"] for side in ("arm", "reference")]
        assert one["value"] == pytest.approx(arms[0] - arms[1])


@pytest.mark.slow
def test_the_table_has_every_cell(finished: Any) -> None:
    """Nine models and their measures, in Parquet as in JSON."""
    table = pq.read_table(finished[0] / "results.parquet").to_pylist()
    assert table == results(finished[0])["cells"]
    margins = [row for row in table if row["measure"] == "preference_margin"]
    assert len(margins) == 9
    assert all(row["low"] <= row["value"] <= row["high"] for row in margins)


@pytest.mark.slow
def test_prompts_without_a_check_are_counted(finished: Any) -> None:
    """The helpful prompts have references and no answers."""
    assert results(finished[0])["n_without_check"] == N_PROMPTS


@pytest.mark.slow
def test_judges_and_shared_prompts_are_written(finished: Any) -> None:
    """What gave the verdicts; rows of both sets that pruning goes by; no prompt stands twice."""
    found = results(finished[0])
    assert found["judge_identities"] == {"refusal_strings": "refusal_strings"}
    assert set(found["pruning_rows_with_prompts"]) == {"harmful_set", "safe_set"}
    kinds = {"harmful", "over_refusal", "helpful"}
    assert all(set(one) == kinds for one in found["pruning_rows_with_prompts"].values())
    assert found["repeated_prompts"] == {kind: [] for kind in kinds}


@pytest.mark.slow
def test_what_was_kept_is_counted(finished: Any) -> None:
    """The oracle leaves nothing harmful; a fifth of the mixed arm's thirty rows are safe ones."""
    found = {one["arm"]: one for one in results(finished[0])["selections"]}
    assert found["oracle"]["kept"]["residual_contamination_rate"]["value"] == 0
    assert found["everything"]["kept"]["residual_contamination_rate"]["value"] == 0.25
    sizes = {arm: (one["n_kept"], one["n_mixed"], one["n_trained_on"])
             for arm, one in found.items()}  # fmt: skip
    assert sizes == {"everything": (40, 0, 40), "oracle": (30, 0, 30), "loss": (30, 0, 30),
                     "loss+safe": (24, 6, 30)}  # fmt: skip


@pytest.mark.slow
def test_all_arms_train_alike(finished: Any) -> None:
    """Two optimiser steps each, and one ranking for the two arms that share it."""
    assert {one["steps"] for one in results(finished[0])["trainings"]} == {2}
    assert [path.name for path in (finished[0] / "rankings" / "all").iterdir()] == ["loss"]


@pytest.mark.slow
def test_tables_say_what_was_judged_and_what_could_be_found(finished: Any) -> None:
    """One judge; differences with what could have been found."""
    shown = " ".join(finished[1].stdout.split())
    assert "Attack success rate (one judge)" in shown
    assert "Smallest found" in shown
    assert "loss+safe" in shown


@pytest.mark.slow
def test_a_finished_experiment_is_a_page(finished: Any, tmp_path: Path) -> None:
    """What `results.json` holds is what the page reads: arms, differences, rows, no warning."""
    out = tmp_path / "page.html"
    write_report([finished[0]], out)
    page = out.read_text()
    assert "differences of Margin of the safe answer (primary, fixed beforehand" in page
    assert "Attack success rate (one judge)" in page
    assert "Harmful left" in page
    assert "Read with care" not in page


@pytest.mark.slow
def test_processes_give_the_same_results(folder: Path, finished: Any, tmp_path: Path) -> None:
    """Two at a time, one cell each, stopped once: no process stays, figures are those of one."""
    out = tmp_path / "parallel"
    arms: dict[str, Any] = {"nothing": {}, "loss": {"method": "loss"}}
    file = config(folder, out, workers=2, arms=arms, references=None, seeds=[0])
    with subprocess.Popen([sys.executable, "-m", "tamis", "experiment", file]) as stopped:
        children: list[psutil.Process] = []
        while stopped.poll() is None and len(children) < 2:
            time.sleep(0.1)
            with contextlib.suppress(psutil.Error):  # one that ended meanwhile
                children = [one for one in psutil.Process(stopped.pid).children()
                            if "--cell" in one.cmdline()]  # fmt: skip
        stopped.terminate()
    assert stopped.returncode == 128 + signal.SIGTERM
    assert (len(children), psutil.wait_procs(children, timeout=3)[1]) == (2, [])
    result = tamis("experiment", file, "--json")
    assert result.returncode == 0, result.stderr
    assert "done all/loss-0.75-steps-0" in " ".join(result.stderr.split())
    ours = results(out)
    assert json.loads(result.stdout) == ours
    same = [row for row in results(finished[0])["cells"]
            if row["arm"] in arms and row["seed"] in (None, 0)]  # fmt: skip
    assert ours["cells"] == same


@pytest.mark.slow
def test_a_finished_experiment_is_not_run_again(folder: Path, finished: Any) -> None:
    """Adapters keep their bytes and times; one deleted evaluation is done again, alike."""
    out = finished[0]
    before = results(out)
    adapters = {path: path.stat().st_mtime_ns for path in out.rglob("adapter_model.safetensors")}
    assert len(adapters) == 10  # eight fine-tuned, of which two are pruned besides
    (out / "cells" / "all" / "nothing" / "evaluate" / "manifest.json").unlink()
    run_experiment(ExperimentConfig.read(folder / f"{out.name}.yaml"))
    assert {path: path.stat().st_mtime_ns for path in adapters} == adapters
    assert results(out)["groups"] == before["groups"]


@pytest.mark.slow
def test_changed_settings_are_refused(folder: Path, finished: Any) -> None:
    """Another recipe in the same folder needs --overwrite, in one process and in several."""
    file = folder / f"{finished[0].name}.yaml"
    for more in ([], ["workers=2", "seeds=[0, 1, 2]"]):
        changed = ExperimentConfig.read(file, ["finetune.max_steps=3", *more])
        with pytest.raises(MismatchError, match=r"max_steps: 2 there, 3 now.*--overwrite"):
            run_experiment(changed, command=[str(file)])


def test_an_unknown_cell_is_named(folder: Path, tmp_path: Path) -> None:
    """With those there are."""
    settings = ExperimentConfig.read(config(folder, tmp_path / "one"))
    with pytest.raises(ConfigError, match=r"no cell 'all/other-0'\. Cells: all/nothing, all/every"):
        run_one(settings, "all/other-0")


@pytest.mark.slow
def test_cells_run_one_by_one_after_preparing(folder: Path, tmp_path: Path) -> None:
    """Rankings and rows come first; each finished cell is off the list; results come last."""
    arms = {"nothing": {}, "everything": {}, "loss": {"method": "loss"}}
    file = config(folder, tmp_path / "few", arms=arms, seeds=[0])
    settings = ExperimentConfig.read(file)
    left = prepare_experiment(settings)
    assert left == ["all/nothing", "all/everything-steps-0", "all/loss-0.75-steps-0"]
    assert (settings.out / "rankings" / "all" / "loss" / "manifest.json").exists()
    assert not (settings.out / "cells").exists()
    for number, name in enumerate(left):
        assert prepare_experiment(settings) == left[number:]
        run_one(settings, name)
    assert prepare_experiment(settings) == []
    assert not (settings.out / "results.json").exists()
    run_experiment(settings)
    measures = results(settings.out)["groups"][0]["measures"]
    assert set(measures["preference_margin"]["arms"]) == set(arms)
    with pytest.raises(MismatchError, match="max_steps"):  # before others are trained for nothing
        prepare_experiment(ExperimentConfig.read(file, ["finetune.max_steps=3"]))


@pytest.mark.parametrize("other", ["--json", "--cell=all/nothing", "--overwrite"])
def test_preparing_has_no_results(folder: Path, tmp_path: Path, other: str) -> None:
    """What asks for them is refused before anything is read."""
    result = tamis("experiment", config(folder, tmp_path / "none"), "--prepare", other)
    assert result.returncode == 2
    assert f"leave out {other.partition('=')[0]}".replace("--overwrite", "--prepare") in " ".join(
        result.stderr.split()
    )
    assert not (tmp_path / "none").exists()
