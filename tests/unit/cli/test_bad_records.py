"""Bad records of every set are counted wherever figures rest on that set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.console import Console
from test_plan_compare import comparison

from tamis.cli.compare import prepare, run_compare
from tamis.cli.config import RankSettings
from tamis.cli.experiment import folders
from tamis.cli.experiment_config import ExperimentConfig, cells
from tamis.cli.experiment_results import sets_read
from tamis.cli.experiment_rows import read_data, run_ranking, run_rows
from tamis.cli.show import stage_summary
from tamis.cli.show_comparison import comparison_tables
from tamis.cli.stages import Common, run_rank
from tamis.methods.base import RankingInputs
from tamis.methods.scores import Scores
from tamis.report.collect import collect
from tamis.report.comparison import comparison_view
from tamis.report.loads import load_lines
from tamis.report.records import LoadFacts
from tamis.report.terminal import terminal_summary
from tamis.report.view import rank_view

SETS = ("safe_set", "harmful_set", "trusted_set")


class Reading:
    """Needs every set."""

    requires: ClassVar[frozenset[str]] = frozenset(SETS)

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row alike."""
        rows, n = inputs.finetuning_set, len(inputs.finetuning_set)
        return Scores("reading", rows.ids, rows.source_ids, np.zeros(n), ["ok"] * n, None)


def write(path: Path, word: str, n_bad: int) -> str:
    """Write six rows about a word, and bad records."""
    rows = [{"id": f"{word}{i}", "prompt": f"{word} {i}", "completion": "yes"} for i in range(6)]
    lines = [*map(json.dumps, rows), *["{"] * n_bad]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def shown(what: Any) -> str:
    """What a wide terminal shows."""
    console = Console(width=200)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_a_ranking_counts_those_of_all_its_sets(tmp_path: Path) -> None:
    """In the manifest, in the terminal and on the page, the trusted set's among them."""
    paths = {name: write(tmp_path / f"{name}.jsonl", name, 2 + i) for i, name in enumerate(SETS)}
    labels, out = tmp_path / "labels.jsonl", tmp_path / "out"
    labels.write_text('{"id": "trusted_set0", "harmful": true}\n'
                      '{"id": "trusted_set1", "harmful": false}\n')  # fmt: skip
    settings = RankSettings.model_validate({"method": {"name": f"{__name__}:Reading"}})
    manifest = run_rank(
        settings, Common(out), data=write(tmp_path / "rows.jsonl", "row", 1), trusted_labels=labels,
        **paths,
    )  # fmt: skip
    found = [manifest[name]["load"]["n_quarantined"] for name in ("data", *SETS)]
    assert found == [1, 2, 3, 4]
    text = shown(stage_summary(manifest, out))
    assert all(f"{name}: {2 + i} bad records left out" in text for i, name in enumerate(SETS))
    (record,) = collect([out]).ranks
    facts = " ".join(rank_view(record, with_chart=False).facts)
    assert "Harmful set: 9 records read, 3 bad records left out" in facts
    assert "Trusted set: 10 records read, 4 bad records left out" in facts


def test_a_comparison_counts_them(tmp_path: Path) -> None:
    """In comparison.json, in the terminal of both verbs and on the page."""
    config = comparison(
        tmp_path, {"it": {"name": "uniform"}}, n=40,
        safe_set=write(tmp_path / "safe.jsonl", "safe", 1),
        harmful_set=write(tmp_path / "harmful.jsonl", "harmful", 2),
    )  # fmt: skip
    with (tmp_path / "rows.jsonl").open("a") as stream:
        stream.write("{\n" * 5)
    found = run_compare(prepare(config))
    counts = {role: load["n_quarantined"] for role, load in found["sets"].items()}
    assert counts == {"data": 5, "safe_set": 1, "harmful_set": 2}
    path = config.out / "quarantine.jsonl"
    assert len(path.read_text().splitlines()) == 5
    assert len((config.out / "quarantine-harmful_set.jsonl").read_text().splitlines()) == 2
    said = "data: 5 of 45 records are bad and were left out, see "
    assert said + str(path) in " ".join(shown(comparison_tables(found)).split())
    assert said in shown(terminal_summary([config.out]))
    (record,) = collect([config.out]).comparisons
    facts = comparison_view(record).facts
    assert "45 records read, 5 bad records left out" in facts[0]
    assert facts[1] == f"The bad records are in {path}."


def test_a_comparison_that_runs_again_names_each_bad_record_once(tmp_path: Path) -> None:
    """And none when they are mended."""
    config = comparison(tmp_path, {"it": {"name": "uniform"}}, n=40)
    good = (tmp_path / "rows.jsonl").read_text()
    path = config.out / "quarantine.jsonl"
    (tmp_path / "rows.jsonl").write_text(good + "{\n" * 3)
    for _ in range(2):
        run_compare(prepare(config))
        assert len(path.read_text().splitlines()) == 3
    (tmp_path / "rows.jsonl").write_text(good)
    run_compare(prepare(config, overwrite=True))
    assert not path.exists()


def test_an_experiment_counts_them(tmp_path: Path) -> None:
    """Those of the rows, of what rankings read and of what is mixed in."""
    config = ExperimentConfig.model_validate({
        "finetuning_set": write(tmp_path / "rows.jsonl", "row", 1),
        "safe_set": write(tmp_path / "safe.jsonl", "safe", 2), "out": str(tmp_path / "out"),
        "arms": {"everything": {}, "mixed": {
            "method": "uniform",
            "mix": {"share": 0.5, "rows": write(tmp_path / "mix.jsonl", "mix", 3)},
        }},
    })  # fmt: skip
    data, common = read_data(config), Common(config.out)
    todo = [cell for cell in cells(config) if cell.seed == 0]
    run_ranking(config, data, common, "all", "mixed")
    for cell in todo:
        run_rows(config, data, common, cell)
    found = sets_read(config, data, [folders(config, cell) for cell in todo])
    counts = {role: load["n_quarantined"] for role, load in found.items()}
    assert counts == {"data": 1, "safe_set": 2, "mixed into mixed": 3}
    facts = load_lines({"safe_set": LoadFacts(8, 6, 2)})
    assert facts[0].startswith("Safe set: 8 records read, 2 bad records left out")
