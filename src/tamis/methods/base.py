"""What every ranking method takes and gives: `RankingInputs` in, `Scores` out.

A method is one file: its maths as functions, then a frozen settings class with a `rank` method.
Scores are higher = keep, always. Anything with `requires` and `rank(inputs) -> Scores` works.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from tamis.data.example import Examples
from tamis.data.rendered import set_aside
from tamis.data.template import RenderConfig, RenderedRows
from tamis.errors import ConfigError, DuplicateIdError, MismatchError, TamisError
from tamis.methods import check_requires, with_preset
from tamis.methods.scores import Scores as Scores

if TYPE_CHECKING:
    from tamis.models.features import FeatureCache
    from tamis.models.load import LanguageModel
    from tamis.models.pass_counter import PassCount

_SETS = ("finetuning_set", "safe_set", "harmful_set", "trusted_set")
Report = Callable[[str, int, int, dict[str, float]], None]  # stage, done, total, figures


@dataclass(frozen=True)
class RankingInputs:
    """Everything a method may use.

    Attributes:
        finetuning_set: The rows to rank, D_ft.
        safe_set: Trusted rows with safe answers, D_safe; None if not given.
        harmful_set: Rows known to be harmful, of any origin; None if not given.
        trusted_set: Hand-checked rows, of the fine-tuning set or not; None if not given.
        trusted_harmful: Whether each of them is harmful (bool, one per row); None without them.
        model: The ranking model; None if not given.
        render: How rows become tokens; the same for every set.
        seed: The user's seed.
        work: Folder for checkpoints and partial results; None keeps none.
        cache: Folder for features of rows under the model, shared by methods and runs; None keeps
            them in `work`, or in memory.
        cache_gib: Largest disk space for features.
        report: Called with progress; None is silent.
        passes: Counts how much of the model is run; None counts nothing.
        also: Features, by set, that are taken whenever rows of the set are read, for other
            rankings that share the cache.
        outcomes: Rows of the other given sets by rendering outcome, filled as sets are rendered.
    """

    finetuning_set: Examples
    safe_set: Examples | None = None
    harmful_set: Examples | None = None
    trusted_set: Examples | None = None
    trusted_harmful: np.ndarray | None = None
    model: LanguageModel | None = None
    render: RenderConfig = field(default_factory=RenderConfig)
    seed: int = 0
    work: Path | None = None
    cache: Path | None = None
    cache_gib: float = 100.0
    report: Report | None = None
    passes: PassCount | None = None
    also: Mapping[str, Sequence[str]] = field(default_factory=dict)
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)

    @functools.cached_property
    def features(self) -> FeatureCache:
        """Features of rows under the model, asked by name; see `tamis.models.features`."""
        from tamis.models.features import FeatureCache

        if self.model is None:
            raise ConfigError("features of rows need a model: give --model.")
        own = None if self.work is None else self.work / "features"
        return FeatureCache(
            self.model, self.cache or own, disk_gib=self.cache_gib, passes=self.passes
        )

    def rendered(self, which: str | Examples = "finetuning_set") -> RenderedRows:
        """Render a set, by name, or any other rows, such as anchors: those are cut if too long."""
        examples = getattr(self, which) if isinstance(which, str) else which
        if examples is None or self.model is None:
            raise ConfigError(f"rendering {which} needs that set and a model.")
        if id(examples) not in self._rendered:
            given = [name for name in _SETS if examples is getattr(self, name)]
            limits = self.render if given else self.render.cutting()
            found = self.model.renderings.render(examples, limits)
            self._rendered[id(examples)] = examples, found
            self.outcomes.update({name: found.counts() for name in given if name != _SETS[0]})
            if isinstance(which, str) and which in self.also:
                self.features.read_with(found, self.also[which])
        return self._rendered[id(examples)][1]

    @functools.cached_property
    def _rendered(self) -> dict[int, tuple[Examples, RenderedRows]]:
        """Rendered rows by the identity of their set, which is kept so that no other takes it."""
        return {}

    def states(self, which: str | Examples, names: Sequence[str]) -> np.ndarray:
        """Return hidden states of usable rows side by side, in the order of their ids.

        Args:
            which: A set by name, or any other rows.
            names: `state:...` features, see `tamis.models.features`.

        Returns:
            float64 [usable rows, sum of widths]; the rows are `rendered(which).id_order`.

        Raises:
            NoTrainedTokensError: No row is usable.
        """
        rows = self.rendered(which)
        name = which if isinstance(which, str) else "anchors"
        rows.check_usable(name)
        self.features.ensure(rows, names, self.progress(f"states of the {name}"))
        found = [self.features.states(rows, state).double().numpy() for state in names]
        return np.asarray(np.concatenate(found, axis=1)[rows.id_order])

    def progress(self, stage: str) -> Callable[[int, int, dict[str, float]], None] | None:
        """Return a progress callback for one named stage of the work."""
        if self.report is None:
            return None
        report = self.report
        return lambda done, total, figures: report(stage, done, total, figures)


@runtime_checkable
class Ranker(Protocol):
    """Anything that gives one score per row.

    `requires` names what must be given ("model", "safe_set", ...), so that a missing input is
    refused before a large model is loaded.
    """

    requires: ClassVar[frozenset[str]]

    def rank(self, inputs: RankingInputs) -> Scores:
        """Score every row of `inputs.finetuning_set`, in its order."""
        ...


class Method(BaseModel):
    """Base of the shipped methods: frozen settings, unknown keys refused, presets by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    requires: ClassVar[frozenset[str]] = frozenset()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def reads(self, n_layers: int) -> dict[str, list[str]]:
        """Name the features that `rank` asks of the given sets, as far as the settings tell.

        A comparison reads a set once for all its methods; what is not named costs a reading more.

        Args:
            n_layers: Of the model.

        Returns:
            Names of features (`tamis.models.features`), by set.

        Raises:
            ConfigError: The model has no such layer.
        """
        return {}

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        """Start from the preset's values; those given beside it win."""
        preset = values.get("preset") if isinstance(values, Mapping) else None
        return with_preset(cls.presets.get(preset, {}), values) if preset else values


def check_inputs(ranker: Ranker, inputs: RankingInputs, name: str) -> None:
    """Refuse missing inputs and unusable sets before any work.

    Raises:
        ConfigError: A required input is missing, the fine-tuning set is empty, or the trusted set
            and its labels do not fit together.
        DuplicateIdError: The fine-tuning set repeats an id.
    """
    check_requires(getattr(ranker, "requires", None), name)
    missing = sorted(need for need in ranker.requires if getattr(inputs, need, None) is None)
    if missing:
        flags = ", ".join(f"--{need.replace('_', '-')}" for need in missing)
        raise ConfigError(f"method {name!r} needs {' and '.join(missing)}: give {flags}.")
    if inputs.trusted_set is not None and (
        inputs.trusted_harmful is None or len(inputs.trusted_harmful) != len(inputs.trusted_set)
    ):
        given = 0 if inputs.trusted_harmful is None else len(inputs.trusted_harmful)
        raise ConfigError(
            f"the trusted set has {len(inputs.trusted_set)} rows and {given} labels: give one for "
            "each (--trusted-labels)."
        )
    n = len(inputs.finetuning_set)
    if n == 0:
        raise ConfigError("the fine-tuning set is empty: there is nothing to rank.")
    if len(set(inputs.finetuning_set.ids)) != n:
        raise DuplicateIdError("the fine-tuning set repeats an id; load it with load_examples.")


def rank(
    finetuning_set: Examples, method: Ranker, *, safe_set: Examples | None = None,
    harmful_set: Examples | None = None, trusted_set: Examples | None = None,
    trusted_harmful: np.ndarray | None = None, model: LanguageModel | None = None,
    render: RenderConfig | None = None, seed: int = 0,
    work: Path | None = None, cache: Path | None = None, cache_gib: float = 100.0,
    report: Report | None = None, name: str | None = None,
    also: Mapping[str, Sequence[str]] | None = None,
) -> Scores:  # fmt: skip
    """Rank fine-tuning rows with one method.

    Args:
        finetuning_set: The rows to rank.
        method: A method's object, such as `SEAL(epochs=2)`, or anything with `requires` and `rank`.
        safe_set: Trusted rows with safe answers, for methods that need them.
        harmful_set: Rows known to be harmful, for methods that use them.
        trusted_set: Labelled rows, for methods that learn from labels.
        trusted_harmful: Their labels: whether each is harmful.
        model: The ranking model, for methods that need one.
        render: How rows become tokens.
        seed: Decides every random draw.
        work: Folder for checkpoints; a killed ranking with the same folder goes on from there.
        cache: Folder for features of rows under the model; rankings that share it share the work.
        cache_gib: Largest disk space for them.
        report: Called with (stage, done, total, figures).
        name: What errors call the method; None is its class's name.
        also: See `RankingInputs`.

    Returns:
        One score per row, higher = keep, in the order of the rows.

    Raises:
        ConfigError: A required input is missing, or not yet loaded or built.
        MismatchError: The method did not score exactly these rows, or `work` is another ranking's.
    """
    if isinstance(method, str):
        raise ConfigError(f"method is a name: give build_method({method!r}) of tamis.methods.")
    if isinstance(method, type):
        raise ConfigError(
            f"method is the class {method.__name__}: give an object, as of {method.__name__}()."
        )
    if not isinstance(finetuning_set, Examples):
        raise ConfigError("finetuning_set is not loaded: give load_examples(...) of it.")
    inputs = RankingInputs(
        finetuning_set, safe_set, harmful_set, trusted_set, trusted_harmful, model,
        render or RenderConfig(), seed, work, cache, cache_gib, report, also=also or {},
    )  # fmt: skip
    name = name or type(method).__name__
    check_inputs(method, inputs, name)
    scores = _counted(method, inputs, name)
    if list(scores.ids) != list(finetuning_set.ids):
        raise MismatchError(
            f"method {name!r} returned scores for other rows than it was given, or in another "
            "order. A ranker returns one score per row, in the order of the rows."
        )
    return scores


def _counted(method: Ranker, inputs: RankingInputs, name: str) -> Scores:
    """Rank; note passes per token of the data by this process, and rows of the given sets."""
    if inputs.model is None:
        return _ranked(method, inputs, name)
    from tamis.models.pass_counter import counted_passes

    with counted_passes(inputs.model.model) as count:
        inputs = replace(inputs, passes=count)
        scores = _ranked(method, inputs, name)
    details = dict(scores.details)
    if passes := count.per_token(int(inputs.rendered().lengths.sum())):
        details["passes"] = passes
    notes = [*details.get("notes", ()), *set_aside(inputs.outcomes)]
    found = {"sets_by_outcome": inputs.outcomes, "notes": notes}
    return replace(scores, details=details | {key: said for key, said in found.items() if said})


def _ranked(method: Ranker, inputs: RankingInputs, name: str) -> Scores:
    """Rank, and refuse what is no ranking."""
    try:
        scores: object = method.rank(inputs)
    except Exception as error:
        module = type(method).__module__
        if not isinstance(error, TamisError) and not module.startswith("tamis."):
            error.add_note(f"raised while {name!r} ranked: a method of {module}, not of tamis")
        raise
    if not isinstance(scores, Scores):
        raise MismatchError(
            f"method {name!r} returned {type(scores).__name__}, not Scores: rank(inputs) returns "
            "tamis.methods.scores.Scores with one value per row."
        )
    return scores
