"""Whether two evaluations differ in the adapter alone: else a difference has other reasons too.

Judged by content where there is content: prompts by their fingerprint, files by their hash, models
and guards by their weights. The same files in another place are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tamis.errors import DataError
from tamis.models.endpoint_settings import PATIENCE
from tamis.runs import read_manifest

# Settings that decide no figure, and those that other checks look at by content.
_NO_MATTER = ("evaluate.batch_size", "evaluate.max_batch_tokens", "evaluate.max_unscored_share",
              "evaluate.allow_ranking_guard", "device", "model.name", "model.revision")  # fmt: skip
_NAMED = 4  # differing settings told by name


def why_apart(reference: Path, other: Path) -> list[str]:
    """Say what besides the adapter makes the figures of two evaluations differ; empty if nothing.

    Raises:
        DataError: A manifest does not say what was asked.
    """
    ours, theirs = read_manifest(other), read_manifest(reference)
    found = []
    asked = [_questions(manifest, folder)
             for manifest, folder in ((ours, other), (theirs, reference))]  # fmt: skip
    found += [f"other {kind}" for kind in dict.fromkeys([*asked[0], *asked[1]])
              if asked[0].get(kind) != asked[1].get(kind)]  # fmt: skip
    try:
        models = [_base(manifest) for manifest in (ours, theirs)]
        settings = [dict(_settings(manifest)) for manifest in (ours, theirs)]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the manifests of {reference} and {other} do not say how they were evaluated "
            f"({error!r}). Evaluate again into other folders."
        ) from error
    found += ["another base model"] if models[0] != models[1] else []
    names = [name for name in sorted({*settings[0], *settings[1]})
             if settings[0].get(name) != settings[1].get(name)]  # fmt: skip
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        found.append(f"other settings ({', '.join(names[:_NAMED])}{more})")
    return found


def _questions(manifest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what was asked and who judged, by its content."""
    try:
        metrics = manifest["details"]["metrics"]
        prompts = {f"{kind.replace('_', '-')} prompts": asked["fingerprint"]
                   for kind, asked in metrics["settings"]["prompts"].items()}  # fmt: skip
        hashed = {role: entry.get("sha256") for role, entry in manifest["inputs"].items()}
        judges = (metrics["judge"], sorted(metrics["judge_identities"].items()),
                  sorted(i for i in hashed.items() if i[0].startswith("judge_")))  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} does not say what was asked or who judged ({error!r}): it is of an older "
            "tamis. Evaluate again into another folder."
        ) from error
    return {**prompts, "judges": judges, "pairs": hashed.get("pairs"),
            "chat template": hashed.get("chat_template")}  # fmt: skip


def _base(manifest: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the base model's fingerprint, without the adapter's, and what it was computed in."""
    model = manifest.get("model") or {}
    return str(model.get("fingerprint", "")).partition("+")[0], model.get("dtype")


def _settings(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings that decide figures, by dotted name."""
    hashed = "chat_template" in manifest["inputs"]
    for section, values in manifest["config"].items():
        for key, value in values.items() if isinstance(values, Mapping) else [("", values)]:
            name = f"{section}.{key}".rstrip(".")
            if name in _NO_MATTER or (name == "render.chat_template" and hashed):
                continue
            yield name, [_judge(one) for one in value] if name == "evaluate.judges" else value


def _judge(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out how patiently a judge is asked, and where its files lie: they are hashed."""
    endpoint = settings.get("endpoint") or {}
    kept = {key: value for key, value in endpoint.items() if key not in PATIENCE}
    return {**settings, "endpoint": kept, "policy": None, "guard": {
        key: value for key, value in (settings.get("guard") or {}).items()
        if key not in ("guard", "policy", "chat_template", "device")
    }}  # fmt: skip
