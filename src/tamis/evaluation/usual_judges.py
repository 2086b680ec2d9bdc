"""Who judges where no judge is named: refusal strings and, where it lies on this machine, a guard.

Nothing is fetched that nobody asked for. The second judge is looked for in the Hugging Face cache;
`hf download` puts it there. The settings that a stage keeps name both, so that a repeat elsewhere
has the same judges or says that it has not.
"""

from __future__ import annotations

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
    strings = JudgeSettings()
    if not _on_this_machine():
        return (strings,)
    guard = {"kind": "guard", "guard": {"preset": "qwen3guard"}}
    return strings, JudgeSettings.model_validate(guard)


def _on_this_machine() -> bool:
    from huggingface_hub import try_to_load_from_cache

    # None where nothing is known of the file, and an object where the hub is known to lack it.
    return all(isinstance(try_to_load_from_cache(SECOND_JUDGE, name), str) for name in _FILES)
