"""The benchmark of all methods: a part of them is never taken for the whole."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

N, N_HARMFUL = 60, 15


def write_data(folder: Path) -> None:
    """Rows, labels and lists as the benchmark reads them."""
    (folder / "variants").mkdir(parents=True)
    rows = [{"id": f"r{i}", "prompt": f"{i:04}", "completion": "yes"} for i in range(N)]
    labels = [{"id": f"r{i}", "harmful": i < N_HARMFUL} for i in range(N)]
    for name, lines in (("train", rows), ("safe", rows[:2]), ("labels", labels)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for share in ("10", "30"):
        ids = [f"r{i}" for i in range(5, N)]
        (folder / "variants" / f"c{share}.json").write_text(json.dumps({"ids": ids}))


@pytest.mark.slow
def test_a_group_alone_writes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run of all groups does, and its figures are of all."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    benchmark = importlib.import_module("comparison")
    write_data(tmp_path / "redorca_mini")
    monkeypatch.setenv("TAMIS_TEST_DATA", str(tmp_path))
    monkeypatch.setattr(importlib.import_module("environment"), "RESULTS", tmp_path / "results")
    groups = {"states": {"uniform": {}}, "mixture": {"again": {"name": "uniform"}}}
    monkeypatch.setattr(benchmark, "METHODS", groups)
    result = tmp_path / "results" / "comparison.json"
    benchmark.main(["--out", str(tmp_path / "out"), "--only", "mixture"])
    assert (tmp_path / "out" / "comparison.json").exists()
    assert not result.exists()
    benchmark.main(["--out", str(tmp_path / "out")])
    assert set(json.loads(result.read_text())["settings"]) == {"uniform", "again"}
