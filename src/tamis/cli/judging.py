"""What is refused of an evaluation before any work: files that cannot be read, the ranking's guard.

No ranking is proven by its own guard: a judge that ranked the rows is refused unless forced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tamis.cli.config import PromptPaths
from tamis.cli.origins import Origin
from tamis.errors import ConfigError
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.finished import Questions, questions_of_files
from tamis.evaluation.judge_settings import JudgeSettings
from tamis.evaluation.judges import RefusalStrings
from tamis.evaluation.preference import chosen_comparisons
from tamis.evaluation.rankers_guard import is_rankers_guard
from tamis.evaluation.usual_judges import are_usual
from tamis.files import write_json
from tamis.runs import Stage
from tamis.stage_files import MANIFEST


class Judged(Protocol):
    """Settings that name judges."""

    @property
    def judges(self) -> tuple[JudgeSettings, ...]:
        """Who judges."""
        ...

    @property
    def allow_ranking_guard(self) -> bool:
        """Let a judge be the guard that ranked the rows."""
        ...


def read_questions(config: EvaluateConfig, prompts: PromptPaths) -> Questions:
    """Read what is asked, and look at all else an evaluation needs besides a model.

    Raises:
        ConfigError: A judge's policy cannot be read, or more openings are asked for than ship.
        DataError: A file of prompts or pairs cannot be read, or a line is bad (named).
    """
    for judge in config.judges:
        judge.check_policies()
    questions = questions_of_files(prompts.by_kind(), prompts.pairs, config)
    chosen_comparisons((), questions.pairs, config.n_openings)
    return questions


def refuse_ranking_guard(
    config: Judged, ranking: Any, identities: Iterable[str] = (), *,
    setting: str = "evaluate.allow_ranking_guard",
) -> None:  # fmt: skip
    """Refuse judges that ranked the rows.

    Args:
        config: Names the judges.
        ranking: A method's settings before it ran, or the details of its manifest afterwards;
            methods within methods are found.
        identities: Of the judges as an evaluation loaded them; without, as the settings have them.
        setting: What to set to do it knowingly.

    Raises:
        ConfigError: A judge is the ranking's guard, and `allow_ranking_guard` is not set.
    """
    if config.allow_ranking_guard:
        return
    usual = "" if not are_usual(config.judges) else (
        " These are the judges where none is named and the Hugging Face cache has the guard: "
        "--set 'evaluate.judges=[{kind: refusal_strings}]' leaves it out."
    )  # fmt: skip
    for judge, guard in _judges_that_rank(config, ranking, identities):
        raise ConfigError(
            f"the judge {judge} is the guard that ranks the rows "
            f"({guard}): rows that it finds harmless would be judged by itself. "
            f"Set another judge, or {setting}=true to do it knowingly.{usual}"
        )


def check_origin(
    config: Judged, origin: Origin, identities: Sequence[str] = (), *,
    setting: str = "evaluate.allow_ranking_guard",
) -> list[str]:  # fmt: skip
    """Refuse judges that ranked the rows a model was fine-tuned on; arguments as above.

    Returns:
        Notes for the user: that it was done knowingly, or that it could not be checked. None where
        no judge could be a guard, as refusal strings cannot.

    Raises:
        ConfigError: A judge is a ranking's guard, and `allow_ranking_guard` is not set.
    """
    rankings = list(origin.details())
    refuse_ranking_guard(config, rankings, identities, setting=setting)
    notes = [
        f"the judge {judge} is the guard that ranked the rows ({guard}), which {setting} permits: "
        "rows that it finds harmless are judged by itself."
        for judge, guard in dict.fromkeys(_judges_that_rank(config, rankings, identities))
    ]
    judges = [judge for judge in config.judges if judge.identity != RefusalStrings.identity]
    if origin.lost and judges and not config.allow_ranking_guard:
        notes.append(
            "whether a judge is the guard that ranked the rows could not be checked: "
            f"{'; '.join(origin.lost)}. Name the ranking with --scores."
        )
    return notes


def renewed(stage: Stage, origin: Origin, notes: Sequence[str]) -> dict[str, Any]:
    """Return the manifest of a finished stage, with what is known of its rankings by now.

    Args:
        stage: Whose judges were checked again.
        origin: As found now. Where a way to it is lost by now, the manifest stays as it is.
        notes: Of `check_origin`.
    """
    manifest = stage.manifest()
    known = {"ranked_by": origin.to_json(), "judge_notes": list(notes)}
    changed = {**manifest, "details": {**manifest["details"], **known}}
    if origin.lost or not origin.rankings or changed == manifest:
        return manifest
    write_json(stage.folder / MANIFEST, changed)
    return changed


def _judges_that_rank(
    config: Judged, ranking: Any, identities: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Yield every judge that is a guard of the ranking, with the guard's name there."""
    judges = list(identities) or [judge.identity for judge in config.judges]
    for guard in guards(ranking):
        for judge in judges:
            if is_rankers_guard(judge, {"guard": guard}):
                yield judge, str(guard["name"])


def guards(settings: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every guard that settings or details name, as `{"name": ..., ...}`."""
    if isinstance(settings, list | tuple):
        for value in settings:
            yield from guards(value)
    if not isinstance(settings, Mapping):
        return
    guard = settings.get("guard")
    if isinstance(guard, str):
        yield {"name": guard}
    elif isinstance(guard, Mapping) and "name" in guard:
        yield guard
    for value in settings.values():
        yield from guards(value)
