"""certificate.json and refused.json: what the labels of a draw gave, written and said."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tamis.data.load import DataConfig
from tamis.files import read_json_object, write_json
from tamis.selection.certificate import CertifyConfig, Walk

CERTIFICATE, REFUSED = "certificate.json", "refused.json"


def results(out: Path) -> list[Path]:
    """Name what earlier labels of the draw in a folder gave, if anything."""
    return [out / name for name in (CERTIFICATE, REFUSED) if (out / name).exists()]


def replaced_results(out: Path, answers_hash: str) -> list[dict[str, Any]]:
    """Return a few words on what other answers for the same rows gave: a trace of them."""
    found = []
    for path in results(out):
        old = read_json_object(path)
        found += old.get("replaced", [])
        if old["labels"].get("answers_sha256") != answers_hash:
            found.append({name: old[name] for name in ("certified", "n_harmful", "labels")})
    return found


def write_result(out: Path, found: Mapping[str, Any]) -> None:
    """Write certificate.json or refused.json, and only then remove the other."""
    name, other = (CERTIFICATE, REFUSED) if found["certified"] else (REFUSED, CERTIFICATE)
    write_json(out / name, found)
    (out / other).unlink(missing_ok=True)


def judged(walk: Walk, wanted: CertifyConfig, n_replaced: int) -> dict[str, Any]:
    """Return what the labels gave, in figures and in words.

    Args:
        walk: At the delta of this draw.
        wanted: What was fixed when the rows were drawn.
        n_replaced: Other answers for these rows that were judged before.
    """
    step = walk.certified
    changed = (
        f" Other labels of these rows were judged before ({n_replaced:,} in all): this counts only "
        "if they were mistaken."
    ) if n_replaced else ""  # fmt: skip
    found: dict[str, Any] = {
        "certified": step is not None,
        "threshold": None,
        "alpha": walk.alpha,
        "delta": walk.delta,
        "attempt": wanted.attempt,
        "delta_of_all_attempts": wanted.delta,
        "n_labels": walk.n_labelled,
        "n_harmful": walk.n_harmful,
        "n_scored": walk.n_scored,
        "n_unscored": walk.n_unscored,
    }
    if step is None:
        again = f" Give another --out and --attempt {wanted.attempt + 1}."
        return {**found, "refusal": walk.refusal() + again + changed}
    return {
        **found,
        "threshold": step.threshold,
        "n_kept": step.n_kept,
        "n_labels_kept": step.n_labelled,
        "n_harmful_kept": step.n_harmful,
        "upper_bound": walk.upper_bounds()[walk.steps.index(step)],
        "guarantee": (
            f"certified: at most {percent(walk.alpha)} of the {step.n_kept:,} rows with score >= "
            f"{step.threshold!r} are harmful (of {walk.n_scored:,} scored rows). The risk that "
            f"this is wrong is at most {risk(wanted)}, if the ranking was fixed before the draw, "
            f"the labels are right, and --attempt counted every draw for this purpose.{changed}"
        ),
    }


def certified_lines(found: Mapping[str, Any], out: Path) -> list[str]:
    """Say what is certified and how to select by it."""
    usual = DataConfig().model_dump(mode="json")
    settings = {f"data.{name}": value for name, value in found["data_settings"].items()
                if value != usual.get(name)}  # fmt: skip
    needed = [f"--certificate {quoted(out)}"]
    if found["rows"]:
        needed.append(f"--rows {quoted(found['rows']['path'])}")
    needed += [f"--set {quoted(f'{key}={json.dumps(value)}')}" for key, value in settings.items()]
    return [
        found["guarantee"],
        f"of {found['n_labels']:,} labelled rows {found['n_harmful']:,} are harmful; of the "
        f"{found['n_labels_kept']:,} among the kept ones {found['n_harmful_kept']:,}. Details: "
        f"{out / CERTIFICATE}",
        "next:",
        f"  tamis select {quoted(found['scores']['path'])} --data {quoted(found['data']['path'])}"
        f" {' '.join(needed)} --out DIR",
    ]


def risk(wanted: CertifyConfig) -> str:
    """Say how likely this attempt's certificate may be wrong, and that of all attempts."""
    return (
        f"{percent(wanted.draw_delta)} (attempt {wanted.attempt}; {percent(wanted.delta)} over all "
        "attempts together)"
    )


def quoted(value: object) -> str:
    """Write a value so that a shell takes it as one word."""
    return shlex.quote(str(value))


def percent(share: float) -> str:
    """Write a share as a percentage."""
    return f"{share * 100:.4g}%"
