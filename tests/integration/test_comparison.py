"""`tamis compare` and `tamis score` from file to figures on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import toy
from tamis.methods.scores import Scores


def tamis(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "tamis", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, forty labelled rows, a safe set and a harmful set on disk."""
    path = tmp_path_factory.mktemp("inputs")
    lm = toy.tiny_lm()
    lm.model.save_pretrained(path / "model")
    lm.tokenizer.save_pretrained(path / "model")
    rows = toy.contaminated_set(40, n_harmful=12, n_safe=16)
    others = toy.contaminated_set(8, n_harmful=8, n_safe=1, seed=5).finetuning_set

    def write(name: str, lines: list[Any]) -> None:
        (path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def records(examples: Any, prefix: str) -> list[Any]:
        return [{"id": f"{prefix}{i}", "prompt": row.messages[0].content,
                 "completion": row.messages[1].content}
                for i, row in enumerate(examples)]  # fmt: skip

    write("rows.jsonl", records(rows.finetuning_set, "r"))
    write("safe.jsonl", records(rows.safe_set, "s"))
    write("bad.jsonl", records(others, "h"))
    sources = ("one", "two")
    write("labels.jsonl", [{"id": f"r{i}", "harmful": bool(bad), "source": sources[i % 2]}
                           for i, bad in enumerate(rows.harmful)])  # fmt: skip
    (path / "half.json").write_text(json.dumps([f"r{i}" for i in range(20)]))
    return path


def config(folder: Path, out: Path, **changes: Any) -> Path:
    """Write a comparison's settings beside the data."""
    settings = {
        "finetuning_set": "rows.jsonl", "safe_set": "safe.jsonl", "labels": "labels.jsonl",
        "harmful_set": "bad.jsonl", "out": str(out), "model": {"name": "model"}, "device": "cpu",
        "n_trusted": 20,
        "methods": {
            "trivial": {}, "uniform": {}, "loss": {},
            "plane": {"name": "contrast", "anchors": "none", "layers": [1, 2]},
            "probe": {"layers": [1, 2], "strengths": [0.1]},
        },
        "parts": {"half": {"rows": "half.json", "methods": ["loss", "plane"]},
                  "planted": {"rate": 0.1, "draws": 2, "methods": ["trivial", "loss"]}},
        **changes,
    }  # fmt: skip
    path = folder / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def compared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished comparison and what it printed."""
    out = tmp_path_factory.mktemp("out") / "comparison"
    result = tamis("compare", config(folder, out))
    assert result.returncode == 0, result.stderr
    return out, result


def entries(out: Path) -> dict[tuple[str, str], Any]:
    """Entries of comparison.json by rows and method."""
    found = json.loads((out / "comparison.json").read_text())
    return {(entry["rows"], entry["method"]): entry for entry in found["entries"]}


@pytest.mark.slow
def test_every_method_is_measured_on_every_part_it_is_named_for(compared: Any) -> None:
    """All rows for all; parts for some; plantings are averaged."""
    found = entries(compared[0])
    everywhere = ("trivial", "uniform", "loss", "plane", "probe")
    assert [key for key in found if key[0] == "all"] == [("all", name) for name in everywhere]
    assert [key for key in found if key[0] != "all"] == [
        ("half", "loss"), ("half", "plane"), ("planted", "trivial"), ("planted", "loss"),
    ]  # fmt: skip
    score = found["planted", "loss"]["readouts"]["score"]
    assert (score["n_cells"], score["n"], score["n_harmful"]) == (2, 31, 3)
    assert score["auroc"]["smallest"] <= score["auroc"]["value"] <= score["auroc"]["largest"]


@pytest.mark.slow
def test_the_expected_time_is_printed_first(compared: Any) -> None:
    """Before the first ranking, with every method and the sum."""
    before, _, _ = compared[1].stderr.partition("1/11  all trivial-0")
    for line in ("Expected time", "trivial", "probe", "reading and measuring", "all"):
        assert line in before
    assert "not told" not in before


@pytest.mark.slow
def test_a_plan_alone_runs_nothing(folder: Path, compared: Any, tmp_path: Path) -> None:
    """Rankings to do at a new place; none, and no time for them, where all are there."""
    for out, n_left in ((tmp_path / "new", 11), (compared[0], 0)):
        result = tamis("compare", config(folder, out), "--plan", "--json")
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        assert sum(method["n_left"] for method in found["methods"]) == n_left
        assert (sum(method["minutes"] for method in found["methods"]) > 0) == (n_left > 0)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_method_with_labels_is_measured_on_other_rows(compared: Any) -> None:
    """Twenty of forty rows taught the probe, and it is marked."""
    entry = entries(compared[0])["all", "probe"]
    assert (entry["uses_labels"], entry["readouts"]["score"]["n"]) == (True, 20)


@pytest.mark.slow
def test_slices_and_costs_stand_beside(compared: Any) -> None:
    """Per source, seconds, memory and passes per token; a second method reads the cache."""
    found = entries(compared[0])
    assert {"source:one", "source:two"} <= set(found["all", "loss"]["readouts"]["score"]["slices"])
    assert found["all", "loss"]["passes"][0]["forward"] >= 1.0
    assert found["all", "loss"]["peak_gib"] >= found["all", "loss"]["start_gib"] > 0
    assert found["half", "loss"]["passes"][0] == {"forward": 0.0, "backward": 0.0, "spared": 1.0}
    assert (found["half", "loss"]["n_cached"], found["all", "loss"]["n_cached"]) == (1, 0)
    assert found["all", "plane"]["flagged"][0]["share_of_harmful"] > 0.5


@pytest.mark.slow
def test_every_method_is_measured_by_turns_and_length(compared: Any) -> None:
    """The slices are the same for all methods; one without rows is there and says None."""
    for (rows, _), entry in entries(compared[0]).items():
        slices = entry["readouts"]["score"]["slices"]
        assert slices["turns:2+"]["n"] == 0
        assert slices["turns:2+"]["recall_at_rate"]["value"] is None
        if rows == "all" and not entry["uses_labels"]:
            assert sum(slices[f"length:{k}"]["n"] for k in (1, 2, 3, 4)) == 40
            assert slices["turns:1"]["auroc"]["value"] == pytest.approx(
                entry["readouts"]["score"]["auroc"]["value"]
            )


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(folder: Path, compared: Any) -> None:
    """The same command does nothing again and finds the same figures."""
    out = compared[0]
    before = (out / "comparison.json").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("scores.parquet")}
    assert len(stamps) == 5 + 2 + 4
    assert tamis("compare", folder / f"{out.name}.yaml", "--no-plan").returncode == 0
    assert (out / "comparison.json").read_text() == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.slow
def test_the_table_names_rows_and_methods(compared: Any) -> None:
    """What a user sees first."""
    shown = compared[1].stdout
    assert "all: 40 rows, 12 harmful" in shown
    assert "probe (labels)" in shown


@pytest.mark.slow
def test_a_comparison_has_a_page(compared: Any, tmp_path: Path) -> None:
    """`tamis report` of its folder: every method, the label-free apart from the others."""
    result = tamis("report", compared[0], "--out", tmp_path / "page.html")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "page.html").read_text()
    assert "Comparison of methods" in page
    assert "learned from labels" in page
    assert "all: 40 rows, 12 harmful" in result.stdout
    assert "half: 20 rows" in result.stdout


@pytest.mark.slow
def test_faults_are_told_before_any_work(folder: Path, tmp_path: Path) -> None:
    """A part that names an unknown method, a part with nothing, a wrong option."""
    faults = {
        "which methods does not have": {"parts": {"x": {"rate": 0.1, "methods": ["nobody"]}}},
        "one of them; neither is given": {"parts": {"x": {}}},
        "parts.all: 'all' is the name of all rows": {"parts": {"all": {"rate": 0.1}}},
        "unknown option": {"methods": {"loss": {"no_such": 1}}},
        "'sael' is unknown": {"methods": {"sael": {}}},
    }
    for message, changes in faults.items():
        result = tamis("compare", config(folder, tmp_path / "out", **changes))
        assert result.returncode == 2
        assert message in result.stderr.replace("\n", " ")
    assert not (tmp_path / "out" / "cells").exists()


@pytest.mark.slow
def test_a_saved_selector_scores_other_rows(folder: Path, compared: Any, tmp_path: Path) -> None:
    """`tamis score` gives rows of the ranking their scores again, and takes a new file."""
    source = compared[0] / "cells" / "all" / "plane-0"
    for name, n in (("rows.jsonl", 40), ("bad.jsonl", 8)):
        result = tamis("score", "--selector", source, "--data", folder / name, "--model",
                       folder / "model", "--device", "cpu", "--out", tmp_path / name)  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert len(Scores.read(tmp_path / name)) == n
    ranked, again = Scores.read(source), Scores.read(tmp_path / "rows.jsonl")
    # The selector is one plane; the ranking's scores are of five, each without the row's own fold.
    assert np.corrcoef(ranked.values, again.values)[0, 1] > 0.9
    bad = Scores.read(tmp_path / "bad.jsonl")
    assert np.median(bad.values) < np.median(again.values)


@pytest.mark.slow
def test_a_selector_refuses_other_limits(folder: Path, compared: Any, tmp_path: Path) -> None:
    """Other tokens of the same rows: the scores would mean nothing."""
    source = compared[0] / "cells" / "all" / "plane-0"
    result = tamis("score", "--selector", source, "--data", folder / "rows.jsonl", "--model",
                   folder / "model", "--set", "max_response_tokens=4",
                   "--out", tmp_path)  # fmt: skip
    assert result.returncode == 2
    said = " ".join(result.stderr.split())
    assert "other render settings: max_response_tokens 1024 (here 4)." in said
    assert "Give --set render.max_response_tokens=1024." in said
