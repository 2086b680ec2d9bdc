"""What `tamis select` says of a selection: in the terminal, the manifest and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.console import Console

from tamis.cli.config import SelectSettings
from tamis.cli.show import stage_summary
from tamis.cli.stages import Common, run_select
from tamis.data.load import load_examples
from tamis.methods.scores import SCORES_FILE, Scores
from tamis.report.collect import collect
from tamis.report.view import select_view
from tamis.selection.select import SelectConfig

SAID = "4 rows were asked for and 3 of 5 have a score"


def test_a_ratio_that_keeps_every_scored_row_is_said(tmp_path: Path) -> None:
    """Two of five rows are too long, and 80% are to be kept: no score decides anything."""
    data, ranked, out = tmp_path / "rows.jsonl", tmp_path / "rank", tmp_path / "select"
    rows = [{"prompt": f"Name {i}.", "completion": f"It is {i}."} for i in range(5)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load_examples(data)
    values = np.array([1.0, 2.0, 3.0, np.nan, np.nan])
    outcome = ["ok"] * 3 + ["too_long"] * 2
    ids, own = list(examples.ids), list(examples.source_ids)
    Scores("toy", ids, own, values, outcome, None).write(ranked)
    manifest = run_select(
        SelectSettings(select=SelectConfig(ratio=0.8)), Common(out),
        scores_path=ranked / SCORES_FILE, data=str(data),
    )  # fmt: skip
    assert SAID in " ".join(manifest["details"]["notes"])
    console = Console(width=200)
    with console.capture() as capture:
        console.print(stage_summary(manifest, out))
    assert SAID in capture.get()
    (record,) = collect([out]).selects
    assert SAID in " ".join(select_view(record).facts)
