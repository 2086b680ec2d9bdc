"""Settings of a judge, and the judge they describe; models are loaded by `build_judge` alone.

What cannot work is refused with the settings: an unknown rubric, a rubric without its policy, an
endpoint without address. The policy file is read before any model is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tamis.errors import ConfigError, unknown_name
from tamis.evaluation.endpoint_judge import EndpointJudge, EndpointPairJudge, endpoint_identity
from tamis.evaluation.judges import Judge, RefusalStrings
from tamis.evaluation.pair_rubrics import PAIR_RUBRICS
from tamis.evaluation.rubrics import RUBRICS, Rubric
from tamis.methods.guard import Guard
from tamis.models.endpoint import Endpoint, Progress
from tamis.models.endpoint_settings import PATIENCE, EndpointSettings
from tamis.models.guard_text import read_policy

if TYPE_CHECKING:
    from tamis.evaluation.guard_judge import GuardJudge

_BACKENDS = {"classifier": "classifier", "guard": "generative"}
_LOCAL = tuple(_BACKENDS)
# Settings that some kinds have no use for.
_ONLY: Mapping[str, tuple[str, ...]] = {
    "name": (*_LOCAL, "endpoint"), "threshold": (*_LOCAL, "endpoint"), "guard": _LOCAL,
    "model": ("endpoint",), "rubric": ("endpoint",), "policy": ("endpoint",),
    "endpoint": ("endpoint",),
}  # fmt: skip


class JudgeSettings(BaseModel):
    """Who judges answers, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["refusal_strings", "classifier", "guard", "endpoint"] = "refusal_strings"
    """Published keywords, labels of a classifier, words of a guard, or replies of an endpoint."""
    name: str | None = None
    """Under which it stands in tables; None is the model's name, with the rubric if there is one.
    Refusal strings keep their own."""
    guard: Guard = Guard()
    """The guard or classifier on this machine, with the settings of the method `guard`."""
    model: str | None = None
    """The model's name at the endpoint."""
    rubric: str | None = None
    """What the endpoint is asked: hexphi, strongreject, saft or xstest about one answer; safety or
    helpfulness about two."""
    policy: str | None = None
    """File that says what is forbidden, for the rubric hexphi."""
    threshold: float | None = Field(None, allow_inf_nan=False)
    """Lowest grade that is harmful: None is 5 of 5 for hexphi, 0.5 of 1 for strongreject. For
    guards log-odds of unsafe in nats that must be exceeded; None is 0."""
    endpoint: EndpointSettings = EndpointSettings()
    """Where it is asked, how often and how patiently. A request that is left out asks for replies
    as long as the rubric needs, at temperature 0."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        """Write out what follows from other settings, so that resolved settings repeat a run."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        kind, rubric = filled.get("kind"), filled.get("rubric")
        known = {**RUBRICS, **PAIR_RUBRICS}.get(str(rubric))
        if kind in _BACKENDS and isinstance(guard := filled.get("guard"), Mapping):
            filled["guard"] = {"backend": _BACKENDS[kind], **guard}
        if kind == "endpoint" and known is not None:
            given = filled.get("endpoint", {})
            if isinstance(given, EndpointSettings):
                given = given.model_dump(exclude_unset=True)
            if isinstance(given, Mapping):
                usual = {"max_tokens": known.reply_tokens, "temperature": 0}
                filled["endpoint"] = {"request": usual, **given}
        return filled

    @model_validator(mode="after")
    def _consistent(self) -> JudgeSettings:
        for name, kinds in _ONLY.items():
            if (
                self.kind not in kinds
                and getattr(self, name) != type(self).model_fields[name].default
            ):
                raise ValueError(f"{name} means nothing to kind={self.kind}: leave it out")
        if self.kind in _BACKENDS:
            if self.guard.guard is None:
                raise ValueError("set guard.guard to a hub id or a folder")
            if self.guard.backend != _BACKENDS[self.kind]:
                raise ValueError(
                    f"kind={self.kind} has guard.backend={_BACKENDS[self.kind]}: leave it out"
                )
        if self.kind == "endpoint":
            self._check_endpoint()
        return self

    def _check_endpoint(self) -> None:
        if self.model is None:
            raise ValueError("kind=endpoint needs model, the model's name there")
        if self.endpoint.base_url is None:
            raise ValueError("kind=endpoint needs endpoint.base_url")
        known = sorted({**RUBRICS, **PAIR_RUBRICS})
        if self.rubric is None:
            raise ValueError(f"kind=endpoint needs a rubric: {', '.join(known)}")
        if self.rubric not in known:
            raise unknown_name("rubric", self.rubric, known)
        takes = self._rubric_takes()
        if "policy" in takes and self.policy is None:
            raise ValueError(
                f"rubric {self.rubric} grades by a policy: set policy to a file that says what is "
                "forbidden"
            )
        for name in ("policy", "threshold"):
            if name not in takes and getattr(self, name) is not None:
                raise ValueError(f"{name} means nothing to rubric {self.rubric}: leave it out")
        if self.rubric in RUBRICS:
            self._rubric(policy="checked when it is read")

    def _rubric_takes(self) -> set[str]:
        if self.rubric not in RUBRICS:
            return set()
        return {field.name for field in dataclasses.fields(RUBRICS[self.rubric])}

    def _rubric(self, policy: str | None) -> Rubric:
        values = {"policy": policy, "threshold": self.threshold}
        takes = self._rubric_takes()
        given = {k: v for k, v in values.items() if k in takes and v is not None}
        make: Callable[..., Rubric] = RUBRICS[str(self.rubric)]
        return make(**given)

    @property
    def label(self) -> str:
        """Name under which the judge stands in tables."""
        if self.kind == "endpoint":
            return self.name or f"{self.rubric}:{self.model}"
        if self.kind in _BACKENDS:
            return self.name or str(self.guard.guard)
        return RefusalStrings.name

    @property
    def identity(self) -> str:
        """What gives the verdicts, as far as it is known before a model is loaded."""
        if self.kind == "endpoint":
            return endpoint_identity(str(self.model), self.endpoint.base_url)
        if self.kind in _BACKENDS:
            return f"guard:{self.guard.guard}@"
        return RefusalStrings.identity

    @property
    def files(self) -> dict[str, str]:
        """Files and folders on this machine that decide the verdicts, by role."""
        named = {"policy": self.policy, "guard": self.guard.guard,
                 "guard_policy": self.guard.policy,
                 "guard_template": self.guard.chat_template}  # fmt: skip
        paths = {role: Path(name).expanduser() for role, name in named.items() if name}
        return {role: str(path) for role, path in paths.items() if path.exists()}

    def check_policies(self) -> None:
        """Read the policies.

        Raises:
            ConfigError: One cannot be read, or is empty.
        """
        guard = self.guard
        if self.policy is not None:
            read_policy(self.policy, as_text=True)
        if guard.policy is not None:
            read_policy(guard.policy, as_text=bool(guard.question or guard.text_format))


def check_judges_apart(judges: Sequence[JudgeSettings]) -> None:
    """Refuse settings of judges that cannot judge the same answers side by side.

    Raises:
        ConfigError: One compares answers, or two are the same or have one name.
    """
    for place, judge in enumerate(judges):
        _refuse_pair_rubric(judge)
        for other in judges[:place]:
            same = _verdicts_of(judge) == _verdicts_of(other)
            if same or judge.label == other.label:
                raise ConfigError(
                    f"judges have {judge.label!r} twice: a judge does not confirm itself. Leave "
                    "one out" + ("." if same else ", or give one of them another name.")
                )


def _verdicts_of(settings: JudgeSettings) -> dict[str, Any]:
    """Return the settings that decide verdicts."""
    return settings.model_dump(exclude={"name": True, "endpoint": set(PATIENCE)})


def _refuse_pair_rubric(settings: JudgeSettings) -> None:
    if settings.rubric in PAIR_RUBRICS:
        raise ConfigError(
            f"rubric {settings.rubric!r} compares two answers: it judges win rates. For single "
            f"answers set rubric to one of {', '.join(RUBRICS)}."
        )


def build_judge(
    settings: JudgeSettings, *, cache: Path | None = None, progress: Progress | None = None
) -> Judge:
    """Build the judge of single answers that settings describe.

    Args:
        settings: Who judges, and how.
        cache: Folder for logits of guards and replies of endpoints; a judging that was killed goes
            on there. None keeps nothing.
        progress: Called with answers judged, of all, and figures.

    Raises:
        ConfigError: The rubric compares answers, the policy cannot be read, or the guard cannot be
            loaded or does not fit its settings.
    """
    if settings.kind == "endpoint":
        _refuse_pair_rubric(settings)
        policy = None if settings.policy is None else read_policy(settings.policy, as_text=True)
        return EndpointJudge(
            settings._rubric(policy), _endpoint(settings, cache), name=settings.label,
            progress=progress,
        )  # fmt: skip
    if settings.kind in _BACKENDS:
        return _guard_judge(settings, cache, progress)
    return RefusalStrings()


def build_pair_judge(
    settings: JudgeSettings, *, cache: Path | None = None, progress: Progress | None = None
) -> EndpointPairJudge:
    """Build the judge of pairs of answers that settings describe; arguments as `build_judge`.

    Raises:
        ConfigError: The settings describe a judge of single answers.
    """
    if settings.kind != "endpoint" or settings.rubric not in PAIR_RUBRICS:
        raise ConfigError(
            f"kind={settings.kind} with rubric={settings.rubric} compares no answers: set "
            f"kind=endpoint and rubric to one of {', '.join(PAIR_RUBRICS)}."
        )
    return EndpointPairJudge(
        PAIR_RUBRICS[settings.rubric], _endpoint(settings, cache), name=settings.name,
        progress=progress,
    )  # fmt: skip


def _endpoint(settings: JudgeSettings, cache: Path | None) -> Endpoint:
    file = None if cache is None else cache / "judge-endpoint" / "answers.jsonl"
    return Endpoint(str(settings.model), settings.endpoint, file)


def _guard_judge(
    settings: JudgeSettings, cache: Path | None, progress: Progress | None
) -> GuardJudge:
    from tamis.evaluation.guard_judge import GuardJudge

    return GuardJudge(
        settings.guard.load(), name=settings.label,
        threshold=settings.threshold or 0.0,
        min_word_probability=settings.guard.min_word_probability,
        folder=None if cache is None else cache / "guard",
        max_batch_tokens=settings.guard.max_batch_tokens, progress=progress,
    )  # fmt: skip
