"""Stage folders -> one offline HTML file.

The page asks for nothing from anywhere: no script, no image, no font, and a content policy that
forbids them. Every text is made visible (`tamis.report.text.visible`) and then escaped, at the one
place where values enter the page, so that no part of the page can forget it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tamis.errors import ConfigError
from tamis.files import write_text_atomic
from tamis.report.collect import Collected, collect
from tamis.report.comparison import comparison_view
from tamis.report.evaluation import evaluation_view
from tamis.report.excerpts import samples
from tamis.report.experiment import experiment_view
from tamis.report.paired import Paired, paired_view, write_paired
from tamis.report.proof_records import CertifyRecord, PruneRecord, WinRateRecord
from tamis.report.proofs import proof_views
from tamis.report.tables import input_table, settings_table, stage_table, version_table
from tamis.report.terminal import terminal_summary
from tamis.report.text import visible
from tamis.report.view import (
    at_a_glance,
    detection,
    finetune_view,
    limits,
    rank_view,
    select_view,
)

__all__ = ["render_page", "terminal_summary", "write_report"]

_STAGES = ("rank", "select", "finetune", "evaluate")
_TITLE = "<title>tamis report</title>"  # how a page of ours is known
_HEAD_BYTES = 4096  # it stands within these


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write a report on finished stages; of several evaluations also their paired differences.

    These lie beside the page as `<name>-differences.json`, from which it shows them.

    Args:
        folders: Stage folders, or folders that hold them, in any order. Stages that are missing
            are left out; folders that cannot be read are named on the page.
        out: HTML file; a report that is there is replaced.

    Returns:
        The file.

    Raises:
        ConfigError: Not one finished stage could be read, `out` is a folder or another file than a
            report, or another's file has the name of the differences.
    """
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder. Give a file, such as {out / 'report.html'}.")
    if out.is_file() and not _is_report(out):
        raise ConfigError(
            f"--out {out} is a file that is no report of tamis: it is not replaced. Give another "
            "name, or remove it."
        )
    found = collect(folders)
    paired = write_paired(found.evaluations, out)
    write_text_atomic(out, render_page(found, paired))
    return out


def _is_report(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    return not head or _TITLE.encode() in head  # of an empty file nothing is lost


def render_page(found: Collected, paired: Paired | None = None) -> str:
    """Return the page; the same stages, and figures beside it, always give the same text."""
    style = _resource("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    selected = {id(found.ranking_of(selection)) for selection in found.selects}
    shown, n_sampled = samples(found.evaluations)
    main, others = detection(found)
    shown_stages = {r.facts.stage for r in found.records}
    # A comparison or a win rate alone lacks nothing: it is no run.
    a_run = shown_stages & set(_STAGES)
    absent = [stage for stage in _STAGES if stage not in shown_stages] if a_run else []
    experiments = [experiment_view(record) for record in found.experiments]
    page = _environment().from_string(_resource("report.html.j2")).render(
        style=Markup(style),  # ours, without text from data
        style_hash=Markup(f"sha256-{digest}"),
        tiles=at_a_glance(found),
        problems=[(p.folder.name, str(p.folder), p.reason) for p in found.problems],
        mismatches=[*found.mismatches, *(w for view in experiments for w in view.warnings)],
        absent=absent,
        comparisons=[comparison_view(record) for record in found.comparisons],
        experiments=experiments,
        ranks=[rank_view(rank, with_chart=id(rank) not in selected) for rank in found.ranks],
        detection=main,
        detection_slices=others,
        selects=[select_view(selection) for selection in found.selects],
        finetunes=[finetune_view(tuning) for tuning in found.finetunes],
        certificates=proof_views(found.proofs, CertifyRecord),
        prunings=proof_views(found.proofs, PruneRecord),
        win_rates=proof_views(found.proofs, WinRateRecord),
        evaluation=evaluation_view(found.evaluations),
        paired=paired_view(paired, found.evaluations),
        samples=shown,
        n_sampled=n_sampled,
        stages=stage_table(found),
        inputs=input_table(found),
        versions=version_table(found),
        settings=[
            settings_table(r.facts.config, f"{r.facts.folder.name} ({r.facts.stage})")
            for r in found.records
        ],
        limits=limits(found, paired),
    )  # fmt: skip
    return page + "\n"


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    """Make every text visible before it is escaped; drawings are markup made here already."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _resource(name: str) -> str:
    return (files("tamis.report") / name).read_text(encoding="utf-8")
