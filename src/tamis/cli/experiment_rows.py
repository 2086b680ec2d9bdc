"""The rows of every arm of an experiment: ranked once, selected, mixed, counted.

Below the experiment's folder:

    rankings/<part>/<arm>/      a `tamis rank`; arms with equal settings share one
    rows/<part>/<arm>-<ratio>/  train.jsonl, kept.txt and a manifest
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.cli.asking import ENDPOINT_PATIENCE
from tamis.cli.config import RankSettings
from tamis.cli.experiment_config import Cell, ExperimentConfig, PartConfig
from tamis.cli.inputs import stage_inputs
from tamis.cli.stages import Common, data_facts, run_rank, stage_config
from tamis.data.contaminate import planted_ids
from tamis.data.example import Example, Examples, content_of
from tamis.data.load import load_examples
from tamis.data.row_lists import read_row_list
from tamis.errors import ConfigError
from tamis.evaluation.bookkeeping import kept_figures
from tamis.evaluation.labels import NO_LIST_OF_ROWS, Label, join_labels, read_labels
from tamis.files import atomic_path, json_line, write_text_atomic
from tamis.rng import numpy_generator
from tamis.runs import Stage
from tamis.selection.mix import drawn_ids, mixed_counts
from tamis.selection.select import count_for_ratio

if TYPE_CHECKING:
    from tamis.methods.scores import Scores


KEPT = "kept.txt"  # ids of the rows that were kept


@dataclass(frozen=True)
class Data:
    """What an experiment reads once.

    Attributes:
        examples: All rows.
        truth: Their labels, where known.
        parts: Ids of every part's rows.
    """

    examples: Examples
    truth: list[Label] | None
    parts: dict[str, tuple[str, ...]]

    def part(self, name: str) -> tuple[Examples, list[Label] | None]:
        """Return the rows of a part with their labels."""
        rows = self.examples.restrict(self.parts[name])
        return rows, None if self.truth is None else join_labels(rows, self.truth)


def read_data(config: ExperimentConfig) -> Data:
    """Read the rows and draw the parts; faults are told before any work."""
    examples = load_examples(config.finetuning_set, config.data)
    truth = None if config.labels is None else read_labels(config.labels)
    harmful = None
    if truth is not None:
        joined = join_labels(examples, truth, way_out=NO_LIST_OF_ROWS)
        harmful = np.array([label.harmful for label in joined], dtype=bool)
    parts = {
        name: _part_ids(name, part, examples, harmful, config.ranking_seed)
        for name, part in config.parts.items()
    }
    return Data(examples, truth, parts)


def _part_ids(
    name: str, part: PartConfig, examples: Examples, harmful: np.ndarray | None, seed: int
) -> tuple[str, ...]:
    """Draw a part's rows, in the order of the set."""
    if part.rows is not None:
        return tuple(examples.restrict(read_row_list(part.rows)).ids)
    ids = list(examples.ids)
    if part.rate is not None:
        assert harmful is not None, "the settings ask for labels"
        ids = planted_ids(ids, harmful, part.rate, seed=seed)
    if part.n_rows is None:
        return tuple(ids)
    if part.n_rows > len(ids):
        raise ConfigError(f"parts.{name}.n_rows={part.n_rows}, but there are {len(ids)} rows.")
    kinds = [ids]
    if harmful is not None:  # as many of either kind as their shares say
        bad = {row for row, is_bad in zip(examples.ids, harmful, strict=True) if is_bad}
        kinds = [[row for row in ids if row in bad], [row for row in ids if row not in bad]]
    n_first = round(part.n_rows * len(kinds[0]) / len(ids))
    chosen: set[str] = set()
    for kind, n in zip(kinds, (n_first, part.n_rows - n_first), strict=False):
        order = numpy_generator(seed, "experiment", "rows").permutation(len(kind))
        chosen |= {sorted(kind)[i] for i in order[:n]}
    return tuple(row for row in ids if row in chosen)


def part_list(config: ExperimentConfig, data: Data, part: str) -> Path:
    """Write the ids of a part's rows; return the list's path."""
    path = config.out / "lists" / f"{part}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{row}\n" for row in data.parts[part])
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text_atomic(path, text)
    return path


def ranking_folder(config: ExperimentConfig, part: str, arm: str) -> Path:
    """Return where an arm's ranking lies: with the first arm of equal settings."""
    wanted = config.arms[arm].method
    assert wanted is not None, "asked for ranked arms only"
    first = next(
        name for name, other in config.arms.items()
        if other.method is not None and other.method.resolved() == wanted.resolved()
    )  # fmt: skip
    return config.out / "rankings" / part / first


def run_ranking(
    config: ExperimentConfig, data: Data, common: Common, part: str, arm: str, model: Any = None
) -> Path:
    """Rank a part's rows by an arm's method, unless that is done; return the folder."""
    method = config.arms[arm].method
    assert method is not None, "asked for ranked arms only"
    folder = ranking_folder(config, part, arm)
    run_rank(
        RankSettings(method=method, model=config.ranking_model or config.model, data=config.data,
                     safe_data=config.safe_data, render=config.render),
        replace(common, out=folder, seed=config.ranking_seed), data=config.finetuning_set,
        safe_set=config.safe_set, harmful_set=config.harmful_set, trusted_set=config.trusted_set,
        trusted_labels=config.trusted_labels, labels=config.labels,
        rows=part_list(config, data, part), cache=config.cache or config.out / "cache",
        model=model,
    )  # fmt: skip
    return folder


def arm_scores(config: ExperimentConfig, examples: Examples, truth: list[Label] | None,
               cell: Cell) -> Scores:  # fmt: skip
    """Return the scores that an arm selects by; an oracle's are drawn among equals by seed."""
    from tamis.methods.scores import Scores
    from tamis.selection.select import match_to_data

    arm = config.arms[cell.arm]
    if arm.choice == "ranked":
        scores = Scores.read(ranking_folder(config, cell.part, cell.arm))
        scores = scores if arm.readout is None else scores.with_readout(arm.readout)
        return match_to_data(scores, examples)
    draw = numpy_generator(config.ranking_seed, "experiment", "equals").random(len(examples))
    values = draw[np.argsort(np.argsort(examples.ids, kind="stable"), kind="stable")]
    if arm.choice == "oracle":
        assert truth is not None, "the settings ask for labels"
        values = values + [0.0 if label.harmful else 1.0 for label in truth]
    return Scores(str(arm.choice), list(examples.ids), list(examples.source_ids), values,
                  ["ok"] * len(examples), None)  # fmt: skip


def run_rows(config: ExperimentConfig, data: Data, common: Common, cell: Cell) -> dict[str, Any]:
    """Write the rows a cell trains on and what was kept; return the manifest."""
    from tamis.selection.select import select

    arm = config.arms[cell.arm]
    settings = {"arm": arm.model_dump(mode="json", exclude={"prune"}), "ratio": cell.ratio,
                "seed": config.ranking_seed}  # fmt: skip
    if arm.mix is not None and config.safe_data is not None:
        settings["safe_data"] = config.safe_data.model_dump(mode="json")
    mixed_from = None if arm.mix is None else arm.mix.rows or config.safe_set
    scores_file = None
    if arm.choice == "ranked":
        scores_file = ranking_folder(config, cell.part, cell.arm) / "scores.parquet"
    inputs = stage_inputs(
        data=config.finetuning_set, rows=part_list(config, data, cell.part), scores=scores_file,
        mixed_from=mixed_from, labels=config.labels if arm.choice == "oracle" else None,
    )  # fmt: skip
    common = replace(common, out=config.out / "rows" / cell.selection)
    with Stage(
        common.out, "rows", stage_config(common, config.data, **settings), inputs,
        seed=config.ranking_seed, overwrite=common.overwrite, uncompared=ENDPOINT_PATIENCE,
    ) as stage:  # fmt: skip
        if stage.finished:
            return stage.manifest()
        examples, truth = data.part(cell.part)
        scores = arm_scores(config, examples, truth, cell)
        whole = count_for_ratio(1.0 if cell.ratio is None else cell.ratio, len(examples))
        n, n_mixed = (whole, 0) if arm.mix is None else mixed_counts(whole, arm.mix.share)
        notes = []
        if arm.choice == "oracle" and truth is not None:
            n_harmless = sum(not label.harmful for label in truth)
            if n > n_harmless:
                notes.append(f"oracle: {n} rows were asked for and {n_harmless} are harmless.")
                n = n_harmless
        n_scored = int((~np.isnan(scores.values)).sum())
        if n > n_scored:
            notes.append(f"{n} rows were asked for and {n_scored} have a score.")
        selection = select(scores, count=min(n, n_scored))
        rows = [
            (row.source_id or row.id, row)
            for row in (examples[i] for i in np.flatnonzero(selection.kept).tolist())
        ]
        mixed = None
        if n_mixed:
            mixed = mixed_rows(config, cell.arm, n_mixed)
            rows += [(f"mixed-{row.id}", row) for row in mixed]
        _write_rows(stage.folder, rows)
        kept = [row for row, keep in zip(examples.ids, selection.kept, strict=True) if keep]
        write_text_atomic(stage.folder / KEPT, "".join(f"{row}\n" for row in kept))
        return stage.finish(
            n_rows=len(examples), n_kept=int(selection.kept.sum()), n_mixed=n_mixed,
            n_trained_on=len(rows), data=data_facts(examples),
            mixed_from=None if mixed is None else data_facts(mixed), details={"notes": notes},
        )  # fmt: skip


def mixed_rows(config: ExperimentConfig, arm: str, n: int) -> Examples:
    """Draw the n rows that an arm mixes in; fewer are among more."""
    mix = config.arms[arm].mix
    source = None if mix is None else mix.rows or config.safe_set
    assert source is not None, "the settings ask for rows to mix in"
    pool = load_examples(source, config.safe_data or config.data)
    return pool.restrict(drawn_ids(pool.ids, n, config.ranking_seed))


def rows_in_reach(
    config: ExperimentConfig, data: Data, n_mixed: Mapping[str, int]
) -> Iterator[Example]:  # fmt: skip
    """Yield every row that some arm may train on: those of the set, then others mixed in.

    Args:
        config: The experiment.
        data: Its rows.
        n_mixed: The most rows that each arm mixes in, by arm.
    """
    seen = set(map(content_of, data.examples.ids))
    yield from data.examples
    for arm, n in n_mixed.items():
        for row in mixed_rows(config, arm, n):
            if content_of(row.id) not in seen:
                seen.add(content_of(row.id))
                yield row


def selection_figures(data: Data, folder: Path, part: str, n_mixed: int) -> dict[str, Any]:
    """Say what a finished selection kept, by the labels as they are now."""
    examples, truth = data.part(part)
    kept = set((folder / KEPT).read_text(encoding="utf-8").split("\n"))
    mask = np.array([row in kept for row in examples.ids], dtype=bool)
    return kept_figures(examples, mask, truth, n_mixed)


def _write_rows(folder: Path, rows: list[tuple[str, Example]]) -> None:
    with atomic_path(folder / "train.jsonl") as path, path.open("w", encoding="utf-8") as stream:
        for name, row in rows:
            stream.write(json_line({"id": name, "messages": [asdict(m) for m in row.messages]}))
