"""No ranking is proven by its own guard: a judge that ranked the rows is refused unless forced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tamis.errors import ConfigError
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.judge_settings import is_rankers_guard


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
