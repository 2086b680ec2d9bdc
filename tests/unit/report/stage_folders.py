"""Stage folders, written through the package's own writers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.evaluation.labels import Label
from tamis.evaluation.ranking import ranking_report
from tamis.evaluation.statistics import mean_estimate, rate_estimate
from tamis.files import file_sha256, write_json
from tamis.methods.scores import Scores
from tamis.rng import numpy_generator
from tamis.runs import Stage
from tamis.selection.select import select

MODEL = {"name": "tiny", "revision": None, "fingerprint": "f" * 64, "device": "cpu",
         "dtype": "float32"}  # fmt: skip


class StageFolders:
    """Writes finished stages below one folder; `text` stands wherever text comes from data."""

    def __init__(self, root: Path, text: str = "plain words") -> None:
        self.root = root
        self.text = text

    def rank(
        self, values: Sequence[float] | np.ndarray, *, name: str = "rank", method: str = "seal",
        labels: bool = False, ends: bool = True, **details: Any,
    ) -> Path:  # fmt: skip
        """Write scores, the rows at both ends and, on request, the comparison with labels."""
        n = len(values)
        scored = ~np.isnan(np.asarray(values, dtype=np.float64))
        scores = Scores(
            method=method,
            ids=[f"{i:016x}-0" for i in range(n)],
            source_ids=[f"{self.text} {i}" for i in range(n)],
            values=np.asarray(values, dtype=np.float64),
            outcome=["ok" if ok else "too_long" for ok in scored],
            n_trained_tokens=np.arange(1, n + 1),
            columns={"score_selector": -np.arange(n, dtype=np.float64)},
        )
        config = {"method": {"name": method, "option": self.text}, "render": {"max_tokens": 9}}
        inputs = {"data": {"path": f"/data/{self.text}", "sha256": "a" * 64}}
        load = {"n_read": n + 1, "n_loaded": n, "n_quarantined": 1, "by_kind": {self.text: 1},
                "first_bad": [self.text], "n_repeated_rows": 2,
                "quarantine": self.text}  # fmt: skip
        with Stage(self.root / name, "rank", config, inputs, seed=3) as stage:
            scores.write(stage.folder)
            if labels:
                truth = [
                    Label(row_id, harmful=i % 3 == 0, kind=None if i % 3 else self.text)
                    for i, row_id in enumerate(scores.ids)
                ]
                found = ranking_report(
                    scores, scores.readouts(), truth, primary="score", seed=0, n_resamples=20
                )
                write_json(stage.folder / "ranking.json", found)
            if ends:
                self._write_lines(stage.folder / "ends.jsonl", self._ends(scores))
            stage.finish(
                model={**MODEL, "name": self.text},
                data={"n_rows": n, "fingerprint": "b" * 64, "load": load},
                rows_by_outcome=scores.rows_by_outcome(),
                details={"notes": [self.text], "trained": self.text, **details},
            )
        return self.root / name

    def _ends(self, scores: Scores) -> list[dict[str, Any]]:
        order = np.argsort(scores.values)
        return [
            {"id": scores.ids[i], "source_id": scores.source_ids[i], "end": end,
             "score": float(scores.values[i]), "harmful": True,
             "messages": [{"role": "user", "content": self.text},
                          {"role": "assistant", "content": self.text * 2}]}
            for end, i in (("lowest", order[0]), ("highest", order[-1]))
        ]  # fmt: skip

    def select(self, rank: Path, *, name: str = "select", ratio: float = 0.5) -> Path:
        """Write a selection from a ranking."""
        scores = Scores.read(rank)
        chosen = select(scores, ratio=ratio)
        with Stage(self.root / name, "select", {"select": {"ratio": ratio}}, {}, seed=3) as stage:
            table = pa.table({
                "id": pa.array(chosen.ids, pa.string()),
                "source_id": pa.array(scores.source_ids, pa.string()),
                "score": pa.array(scores.values),
                "kept": pa.array(chosen.kept),
                "reason": pa.array([r and f"{r} {self.text}" for r in chosen.reasons], pa.string()),
            })  # fmt: skip
            pq.write_table(table, stage.folder / "selection.parquet")
            self._write_lines(stage.folder / "kept.jsonl", [{"text": i} for i in chosen.kept_ids])
            stage.finish()
        return self.root / name

    def finetune(
        self, selection: Path | None = None, *, name: str = "finetune",
        losses: Sequence[float] = (2.0, 1.5, 1.0),
    ) -> Path:  # fmt: skip
        """Write a fine-tuning of a selection's kept rows."""
        digest = file_sha256(selection / "kept.jsonl") if selection else "c" * 64
        inputs = {"data": {"path": self.text, "sha256": digest}}
        with Stage(self.root / name, "finetune", {"finetune": {}}, inputs, seed=3) as stage:
            training = {"steps": len(losses), "n_rows": 5, "losses": list(losses), "epochs": 1.0,
                        "n_tokens": 123456, "note": self.text, "resumed_at": None}  # fmt: skip
            stage.finish(model=MODEL, details=training)
        return self.root / name

    def evaluate(
        self, *, name: str, adapter: str | None, n_harmful: int = 4, n_answered: int = 2,
        prompt: str | None = None, judge: str = "refusal_strings", **config: Any,
    ) -> Path:  # fmt: skip
        """Write an evaluation: `n_answered` of the harmful prompts were answered harmfully."""
        settings = {"evaluate": {"max_new_tokens": 8, **config}}
        metrics: dict[str, Any] = {
            "attack_success_rate": rate_estimate(n_answered, n_harmful, 1).to_json(),
            "over_refusal_rate": rate_estimate(0, 0).to_json(),
            "helpful_loss": mean_estimate([1.0, 3.0], numpy_generator(0, "test")).to_json(),
            "judge": judge,
        }
        answers = [
            {"id": f"{self.text} {i}", "set": "harmful", "prompt": prompt or self.text,
             "response": None if i == n_harmful - 1 else self.text, "n_tokens": 3,
             "verdict": {"harmful": i < n_answered, "refused": i >= n_answered,
                         "unscored": self.text if i == n_harmful - 1 else None}}
            for i in range(n_harmful)
        ]  # fmt: skip
        with Stage(self.root / name, "evaluate", settings, {}, seed=3) as stage:
            write_json(stage.folder / "metrics.json", metrics)
            self._write_lines(stage.folder / "generations.jsonl", answers)
            stage.finish(model=MODEL, details={"adapter": adapter})
        return self.root / name

    def everything(self) -> list[Path]:
        """Write one of every stage, and two evaluations."""
        rank = self.rank(np.linspace(-1, 1, 30), labels=True)
        selection = self.select(rank)
        return [
            rank,
            selection,
            self.finetune(selection),
            self.evaluate(name="evaluate-before", adapter=None),
            self.evaluate(name="evaluate-after", adapter=self.text),
        ]

    @staticmethod
    def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
