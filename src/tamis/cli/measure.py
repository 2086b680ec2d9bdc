"""What stands beside the scores: rows at both ends; with labels, how many harmful were found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tamis.data.example import Examples
from tamis.errors import MismatchError
from tamis.evaluation.labels import Label, join_labels
from tamis.files import atomic_path, file_sha256, json_line, write_json
from tamis.stage_files import ELSEWHERE

N_ENDS = 20  # rows of each end of the ranking that a report shows
_ENDS, _RANKING = "ends.jsonl", "ranking.json"


def write_ends(
    folder: Path, scores: Any, examples: Examples, labelled: Sequence[Label] | None
) -> None:
    """Write the rows with the lowest and highest scores, for the report and the reader."""
    from tamis.selection.select import best_first

    best = best_first(scores)
    ends = [("lowest", i) for i in best[::-1][:N_ENDS]] + [("highest", i) for i in best[:N_ENDS]]
    with atomic_path(folder / _ENDS) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for end, i in ends:
            example = examples[int(i)]
            stream.write(json_line({
                "id": example.id, "source_id": example.source_id, "score": float(scores.values[i]),
                "end": end, "messages": [asdict(m) for m in example.messages],
                "harmful": None if labelled is None else labelled[int(i)].harmful,
            }))  # fmt: skip


def measured_with(folder: Path, labels: Path) -> bool:
    """Whether the folder's detection figures are from these very labels."""
    path = folder / _RANKING
    if not path.exists() or not labels.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False  # torn: it is measured again
    return bool(found.get("labels", {}).get("sha256") == file_sha256(labels))


def measure(
    folder: Path, examples: Examples, truth: Sequence[Label], labels: Path, readout: str, seed: int
) -> None:
    """Measure the folder's scores against labels: `ranking.json`, and labels at the ends.

    Args:
        folder: A finished ranking.
        examples: Its rows.
        truth: The labels.
        labels: The file they are from, which is recorded.
        readout: Name of the readout that became the score.
        seed: Of the bootstrap.
    """
    from tamis.evaluation.ranking import ranking_report
    from tamis.methods.scores import Scores

    scores = Scores.read(folder)
    if scores.ids != list(examples.ids):
        raise MismatchError(
            f"{folder} holds scores of other rows than the data has now. Rank again, in "
            f"{ELSEWHERE}."
        )
    write_ends(folder, scores, examples, join_labels(examples, truth))
    readouts = scores.readouts()
    if readout in readouts and readout != "score":
        del readouts["score"]  # the same values under their own name
    found = ranking_report(scores, readouts, truth, primary=readout, seed=seed)
    source = {"path": str(labels.resolve()), "sha256": file_sha256(labels)}
    write_json(folder / _RANKING, {**found, "labels": source})
