"""Who judges where no judge is named: refusal strings and, where it lies on this machine, a guard.

Nothing is fetched that nobody asked for. The second judge is looked for in the Hugging Face cache;
`hf download` puts it there. It is named with its commit, so that the hub is not asked about it, and
the settings that a stage keeps name both judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tamis.evaluation.judge_settings import JudgeSettings
from tamis.models.guard_text import QWEN3GUARD

SECOND_JUDGE = str(QWEN3GUARD["guard"])
HOW_TO_ADD = (
    f"`hf download {SECOND_JUDGE}` makes that guard the second judge of new evaluations that name "
    "none; evaluate.judges names others (docs/judges.md)."
)
_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def usual_judges() -> tuple[JudgeSettings, ...]:
    """Return the judges of settings that name none, the primary first."""
    commit = _commit()
    return (JudgeSettings(),) if commit is None else _both(commit)


def are_usual(judges: Sequence[JudgeSettings]) -> bool:
    """Whether these are judges that settings have which name none, here or on another machine."""
    if len(judges) == 1:
        return judges[0] == JudgeSettings()
    return len(judges) > 1 and tuple(judges) == _both(judges[1].guard.revision)


def _both(commit: str | None) -> tuple[JudgeSettings, JudgeSettings]:
    guard = {"kind": "guard", "guard": {"preset": "qwen3guard", "revision": commit}}
    return JudgeSettings(), JudgeSettings.model_validate(guard)


def _commit() -> str | None:
    """Return the guard's commit in the Hugging Face cache, None where it is not whole there."""
    from huggingface_hub import try_to_load_from_cache

    # None where nothing is known of the file, and an object where the hub is known to lack it.
    found = [try_to_load_from_cache(SECOND_JUDGE, name) for name in _FILES]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths[0].parent.name if len(paths) == len(_FILES) else None
