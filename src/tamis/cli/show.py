"""What the verbs print: a stage's summary, and the audit of `tamis inspect`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tamis.cli.config import InspectSettings
from tamis.data.audit import Audit, audit, show_row
from tamis.data.load import load_examples
from tamis.data.row_lists import read_row_list
from tamis.data.template import render

_BAR_WIDTH = 40


def stage_summary(manifest: Mapping[str, Any], out: Path) -> RenderableType:
    """Return the few lines a user wants after a stage: what went in, what came out, where."""
    lines = [f"{manifest['stage']} finished in {manifest['timings']['seconds']:.1f} s -> {out}"]
    if "n_kept" in manifest:
        lines.append(f"kept {manifest['n_kept']:,} of {manifest['n_rows']:,} rows")
        lines += [f"  dropped {n:,}: {why}" for why, n in manifest["dropped_by_reason"].items()]
    elif "rows_by_outcome" in manifest:
        counts = ", ".join(f"{n:,} {name}" for name, n in manifest["rows_by_outcome"].items())
        lines.append(f"rows: {counts}")
    for role in ("data", "safe_set"):
        load = (manifest.get(role) or {}).get("load") or {}
        if load.get("n_quarantined"):
            lines.append(
                f"{role}: {load['n_quarantined']:,} bad records left out, see {load['quarantine']}"
            )
        if load.get("n_repeated_rows"):
            lines.append(f"{role}: {load['n_repeated_rows']:,} rows repeat an earlier row")
    details = manifest.get("details") or {}
    lines += [f"note: {note}" for note in details.get("notes", ())]
    parts: list[RenderableType] = [Text("\n".join(lines))]
    ranking = out / "ranking.json"
    if ranking.exists():
        parts.append(_ranking_table(json.loads(ranking.read_text(encoding="utf-8"))))
    if "metrics" in details:
        parts.append(_metrics_table(details["metrics"]))
    return Group(*parts)


def _interval(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry.get("value") is None:
        return "not measured"
    if entry.get("low") is None:
        return f"{entry['value']:.3f}"
    return f"{entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def _ranking_table(ranking: Mapping[str, Any]) -> Table:
    table = Table(title="Detection against the labels, 95% intervals")
    for column in ("readout", "AUROC", "average precision", "AUROC vs hard negatives"):
        table.add_column(column)
    for name, found in ranking["readouts"].items():
        hard = (found.get("slices") or {}).get("hard_negative") or {}
        mark = " *" if name == ranking["primary"] else ""
        table.add_row(name + mark, _interval(found["auroc"]), _interval(found["average_precision"]),
                      _interval(hard.get("auroc")))  # fmt: skip
    return table


def _metrics_table(metrics: Mapping[str, Any]) -> Table:
    table = Table(title="Evaluation, 95% intervals")
    for column in ("measure", "value", "n", "unscored"):
        table.add_column(column)
    for name, entry in metrics.items():
        if isinstance(entry, Mapping) and "n_unscored" in entry:
            table.add_row(name, _interval(entry), f"{entry['n']:,}", f"{entry['n_unscored']:,}")
    return table


def inspect_data(
    settings: InspectSettings, data: str, *, rows: Path | None, n_shown: int, as_json: bool,
    console: Console,
) -> None:  # fmt: skip
    """`tamis inspect`: print the audit and a few rows with their trained tokens marked."""
    wanted = None if rows is None else read_row_list(rows)
    examples = load_examples(data, settings.data, rows=wanted)
    from tamis.models.load import load_tokenizer

    tokenizer = load_tokenizer(settings.model)
    rendered = render(examples, tokenizer, settings.render)
    found = audit(rendered, tokenizer)
    if as_json:
        console.file.write(json.dumps(
            {"load": examples.load_report.to_dict(), "audit": asdict(found)}, ensure_ascii=False
        ) + "\n")  # fmt: skip
        return
    console.print(Text("\n".join(_load_lines(examples.load_report.to_dict()))))
    console.print(_audit_table(found))
    console.print(_length_table(found))
    shown = 0
    for i in range(len(rendered)):
        if shown == n_shown:
            break
        if rendered.usable[i]:
            shown += 1
            row = rendered[i]
            title = (
                f"\nrow {i + 1}, id {row.id}: {row.n_trained_tokens} trained tokens in bold green"
            )
            console.print(Text(title, style="bold"))
            tokens = Text()
            for text, trained in show_row(row, tokenizer):
                tokens.append(_visible(text), style="bold green" if trained else "dim")
            console.print(tokens)


def _visible(text: str) -> str:
    """Show control and direction characters as code points: data must not steer the terminal."""
    return "".join(
        c
        if c == "\n" or (c.isprintable() and not 0x2066 <= ord(c) <= 0x2069)
        else f"<{ord(c):04x}>"
        for c in text
    )


def _load_lines(load: Mapping[str, Any]) -> list[str]:
    lines = [f"{load['n_loaded']:,} rows of {load['n_read']:,} records, "
             f"{load['n_quarantined']:,} bad, {load['n_repeated_rows']:,} repeated"]  # fmt: skip
    return [*lines, *(f"  bad: {reason}" for reason in load["first_bad"])]


def _audit_table(found: Audit) -> Table:
    table = Table(title="What the model would be trained on", show_header=False)
    table.add_column("fact")
    table.add_column("value")
    for outcome, n in found.outcomes.items():
        table.add_row(f"rows: {outcome}", f"{n:,}")
    share = found.trained_token_share
    table.add_row("tokens", f"{found.n_tokens:,}")
    table.add_row("trained tokens", f"{found.n_trained_tokens:,}"
                  + ("" if share is None else f" ({share:.3f} of all)"))  # fmt: skip
    table.add_row("prompts cut", f"{found.cut_prompts.n_rows:,} rows, "
                  f"{found.n_cut_prompt_tokens:,} tokens")  # fmt: skip
    table.add_row("responses cut", f"{found.cut_responses.n_rows:,} rows, "
                  f"{found.n_cut_response_tokens:,} tokens")  # fmt: skip
    for name, finding in (("doubled start token", found.duplicated_bos),
                          ("message text spells a special token", found.special_text)):  # fmt: skip
        ids = f": {', '.join(finding.first_ids)}" if finding.n_rows else ""
        table.add_row(name, f"{finding.n_rows:,} rows{ids}")
    matches = {True: "yes", False: "no", None: "unknown"}[found.generation_matches_training]
    table.add_row("answers follow the same text in training and generation", matches)
    for outcome, reasons in found.set_aside.items():
        for reason in reasons:
            table.add_row(f"set aside ({outcome})", Text(_visible(reason)))
    for note in found.notes:
        table.add_row("note", Text(note))
    return table


def _length_table(found: Audit) -> Table:
    table = Table(title="Lengths in tokens", show_header=False)
    most = max((bucket.n_rows for bucket in found.lengths), default=1)
    for bucket in found.lengths:
        bar = "#" * max(1, round(_BAR_WIDTH * bucket.n_rows / most)) if bucket.n_rows else ""
        table.add_row(f"{bucket.low:,} to {bucket.high:,}", f"{bucket.n_rows:,}", bar)
    return table
