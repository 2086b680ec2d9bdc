"""What is refused of an evaluation before any work: files that cannot be read, the ranking's guard.

No ranking is proven by its own guard: a judge that ranked the rows is refused unless forced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tamis.cli.config import PromptPaths
from tamis.errors import ConfigError
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.finished import Questions, questions_of_files
from tamis.evaluation.preference import chosen_comparisons
from tamis.evaluation.rankers_guard import is_rankers_guard


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
    config: EvaluateConfig, ranking: Any, identities: Iterable[str] = ()
) -> None:
    """Refuse judges that ranked the rows.

    Args:
        config: Names the judges.
        ranking: A method's settings before it ran, or the details of its manifest afterwards;
            methods within methods are found.
        identities: Of the judges as an evaluation loaded them; without, as the settings have them.

    Raises:
        ConfigError: A judge is the ranking's guard, and `allow_ranking_guard` is not set.
    """
    if config.allow_ranking_guard:
        return
    judges = list(identities) or [judge.identity for judge in config.judges]
    for guard in guards(ranking):
        for judge in judges:
            if is_rankers_guard(judge, {"guard": guard}):
                raise ConfigError(
                    f"the judge {judge} is the guard that ranks the rows "
                    f"({guard['name']}): rows that it finds harmless would be judged by itself. "
                    "Set another judge, or evaluate.allow_ranking_guard=true to do it knowingly."
                )


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
