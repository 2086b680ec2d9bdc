"""`tamis safe-set`: read the sources, write one JSONL file, say what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tamis.cli.config import Section
from tamis.data.anchors import shipped_anchors
from tamis.data.load import DataConfig, load_examples
from tamis.errors import ConfigError
from tamis.evaluation.prompts import PROMPT_KINDS, read_prompts, shipped_prompts
from tamis.evaluation.safe_set import Excluded, build_safe_set
from tamis.files import atomic_path, json_line


class SafeSetSettings(Section):
    """`tamis safe-set`."""

    data: DataConfig = DataConfig()
    """How the ordinary rows' records are understood."""
    demonstration_data: DataConfig | None = None
    """How the demonstrations' records are understood; None is as `data`."""


def write_safe_set(
    settings: SafeSetSettings, source: str, demonstrations: str | None, exclude: Sequence[Path],
    out: Path, *, share: float, count: int | None, seed: int,
) -> list[str]:  # fmt: skip
    """Build a safe set and write it as JSONL of `id`, `messages` and `kind`.

    Args:
        settings: How both sources' records are understood.
        source: Ordinary rows: file, folder or hub id.
        demonstrations: Safe answers to unsafe requests, likewise; None takes the shipped refusals.
        exclude: Files of evaluation prompts to stay clear of; the shipped ones always are.
        out: The file.
        share: Share of demonstrations.
        count: Rows in all; None is as many as keep the share.
        seed: Decides which rows, and their order.

    Returns:
        Lines for the user.

    Raises:
        ConfigError: The file exists, pairs lack a side, `demonstration_data` has nothing to read,
            or there are too few rows.
        DataError: A source or a file of prompts cannot be read.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already: give another --out, or remove it first.")
    if settings.demonstration_data is not None and demonstrations is None:
        raise ConfigError(
            "demonstration_data says how demonstrations of yours are read, and there are none: "
            "give --demonstrations, or leave the setting out."
        )
    ordinary = load_examples(source, settings.data)
    shown = shipped_anchors().refused
    if demonstrations:
        shown = load_examples(demonstrations, settings.demonstration_data or settings.data)
    prompts = [prompt for kind in PROMPT_KINDS for prompt in shipped_prompts(kind)]
    prompts += [prompt for path in exclude for prompt in read_prompts(path)]
    found = build_safe_set(ordinary, shown, Excluded(prompt.prompt for prompt in prompts),
                           share=share, count=count, seed=seed)  # fmt: skip
    kind = {False: "ordinary", True: "demonstration"}  # in the id too: both files may count from 1
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for row, is_demonstration in zip(found.rows, found.demonstration, strict=True):
            stream.write(json_line({
                "id": f"{kind[is_demonstration]}/{row.source_id or row.id}",
                "messages": [asdict(message) for message in row.messages],
                "kind": kind[is_demonstration],
            }))  # fmt: skip
    n = sum(found.demonstration)
    lines = [f"{len(found.rows):,} rows, {n:,} of them demonstrations ({n / len(found.rows):.1%}) "
             f"-> {out}"]  # fmt: skip
    for counts, why in (
        (found.n_excluded, "that ask (nearly) an evaluation prompt"),
        (found.n_copies, "as copies of others"),
        (found.n_unused, "for which the share or the count has no room"),
    ):
        lines += [f"{name}: {n_out:,} rows left out {why}"
                  for name, n_out in counts.items() if n_out]  # fmt: skip
    for name, read in (("--from", ordinary), ("--demonstrations", shown)):
        if read.load_report.n_quarantined:
            lines.append(f"{name}: {read.load_report.n_quarantined:,} bad records left out")
    if demonstrations is None and n:
        lines.append("the demonstrations are the few refusals that ship with tamis: give your own "
                     "with --demonstrations for a serious ranking")  # fmt: skip
    return lines
