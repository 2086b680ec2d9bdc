"""What the verbs print: a stage's summary, and the audit of `tamis inspect`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tamis.cli.config import InspectSettings
from tamis.cli.model_stages import judge_identities
from tamis.cli.plan import Plan
from tamis.data.audit import Audit, audit, show_row
from tamis.data.load import load_examples
from tamis.data.row_lists import read_row_list
from tamis.data.template import render
from tamis.evaluation.usual_judges import HOW_TO_ADD
from tamis.report.terminal import terminal_summary
from tamis.report.text import visible

_BAR_WIDTH = 40
JUST_NOW = 10.0  # seconds


def stage_summary(manifest: Mapping[str, Any], out: Path) -> RenderableType:
    """Return what a user wants after a stage: its tables, what was left out, notes, where."""
    lines = [f"{manifest['stage']} {_when(manifest)} -> {out}"]
    for role in ("data", "safe_set", "harmful_set", "trusted_set"):
        load = (manifest.get(role) or {}).get("load") or {}
        if load.get("n_quarantined"):
            lines.append(
                f"{role}: {load['n_quarantined']:,} bad records left out, see {load['quarantine']}"
            )
        if load.get("n_repeated_rows"):
            lines.append(f"{role}: {load['n_repeated_rows']:,} rows repeat an earlier row")
    details = manifest.get("details") or {}
    lines += [f"note: {note}" for note in details.get("notes", ())]
    if manifest["stage"] == "evaluate" and len(judge_identities(manifest)) == 1:
        lines.append(f"note: one judge, which no second one checks. {HOW_TO_ADD}")
    if manifest["stage"] == "score":  # a table of its own would have one line
        counts = ", ".join(f"{why} {n:,}" for why, n in manifest["rows_by_outcome"].items())
        return _plain("\n".join([f"rows: {counts}", *lines]))
    if manifest["stage"] == "prune":
        return _plain("\n".join([*_prune_lines(details), *lines]))
    return Group(terminal_summary([out]), _plain("\n".join(lines)))


def _when(manifest: Mapping[str, Any]) -> str:
    """Say whether the stage was done now, or was there from an earlier command."""
    took = f"{manifest['timings']['seconds']:.1f} s"
    finished = datetime.datetime.fromisoformat(manifest["finished"])
    age = (datetime.datetime.now(datetime.UTC) - finished).total_seconds()
    if age < JUST_NOW:
        return f"finished in {took}"
    return f"was there already, finished {finished:%Y-%m-%d %H:%M} UTC in {took}"


def _plain(text: str) -> Text:
    """Show a text as it is: it may hold a name or words from data, and no markup."""
    return Text(visible(text))


def _prune_lines(details: Mapping[str, Any]) -> list[str]:
    """Say what was taken out of an adapter, or put back."""
    if "restored" in details:
        return [f"restored: the adapter as it was before {details['restored']}"]
    lines = [f"taken out: {details['n_removed']:,} of {details['n_weights']:,} weights"]
    for role, name in (("harmful_set", "harmful_loss"), ("safe_set", "benign_loss")):
        if details[name] is not None:
            before, after = details[name]
            rows = ", ".join(f"{why} {n:,}" for why, n in details["rows_by_outcome"][role].items())
            lines.append(f"{role}: loss {before:.3f} -> {after:.3f} (rows: {rows})")
    return [*lines, "the mask was made from these rows: `tamis evaluate` says what it is worth"]


def plan_table(plan: Plan) -> RenderableType:
    """Return what a run will take, stage by stage."""
    table = Table(title=f"{plan.n_rows:,} rows of {plan.tokens_per_row:.0f} tokens on average")
    for heading in ("Stage", "Minutes", "Memory, GiB", "Disk, GiB", "Measured on"):
        table.add_column(
            heading, justify="left" if heading in ("Stage", "Measured on") else "right"
        )
    for stage in plan.stages:
        minutes = "not told" if stage.minutes is None else f"{stage.minutes:.1f}"
        memory = "-" if stage.memory_gib is None else f"{stage.memory_gib:.1f}"
        disk = "-" if stage.disk_gib is None else f"{stage.disk_gib:.2f}"
        table.add_row(_plain(stage.stage), minutes, memory, disk, _plain(stage.measured))
    table.add_section()
    untold = f"without {', '.join(plan.untold)}" if plan.untold else ""
    table.add_row("all", f"{plan.minutes:.1f}", f"{plan.memory_gib:.1f}",
                  f"{max(stage.disk_gib or 0.0 for stage in plan.stages):.2f}",
                  _plain(untold))  # fmt: skip
    refused = [
        Text(visible(f"{stage.stage} refuses the few rows that are measured, and may refuse all "
                     f"of them: {stage.refusal}"), "yellow")
        for stage in plan.stages if stage.refusal
    ]  # fmt: skip
    return Group(table, *refused)


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
    console.print(_plain("\n".join(_load_lines(examples.load_report.to_dict()))))
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
            console.print(Text(visible(title), style="bold"))
            tokens = Text()
            for text, trained in show_row(row, tokenizer):
                tokens.append(visible(text), style="bold green" if trained else "dim")
            console.print(tokens)


def _load_lines(load: Mapping[str, Any]) -> list[str]:
    lines = [f"{load['n_loaded']:,} rows of {load['n_read']:,} records, "
             f"{load['n_quarantined']:,} bad, {load['n_repeated_rows']:,} repeated"]  # fmt: skip
    return [*lines, *(f"  bad: {reason}" for reason in load["first_bad"])]


def _audit_table(found: Audit) -> Table:
    table = Table(title="What the model would be trained on", show_header=False)
    table.add_column("fact")
    table.add_column("value")
    for outcome, n in found.outcomes.items():
        table.add_row(_plain(f"rows: {outcome}"), f"{n:,}")
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
        table.add_row(name, _plain(f"{finding.n_rows:,} rows{ids}"))
    matches = {True: "yes", False: "no", None: "unknown"}[found.generation_matches_training]
    table.add_row("answers follow the same text in training and generation", matches)
    for outcome, reasons in found.set_aside.items():
        for reason in reasons:
            table.add_row(_plain(f"set aside ({outcome})"), _plain(reason))
    for note in found.notes:
        table.add_row("note", _plain(note))
    return table


def _length_table(found: Audit) -> Table:
    table = Table(title="Lengths in tokens", show_header=False)
    most = max((bucket.n_rows for bucket in found.lengths), default=1)
    for bucket in found.lengths:
        bar = "#" * max(1, round(_BAR_WIDTH * bucket.n_rows / most)) if bucket.n_rows else ""
        table.add_row(f"{bucket.low:,} to {bucket.high:,}", f"{bucket.n_rows:,}", bar)
    return table
