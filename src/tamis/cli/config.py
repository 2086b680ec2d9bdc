"""Settings of every verb: the configs defined beside the code, from YAML and `--set key=value`.

A key may be written in full (`render.max_prompt_tokens=96`) or alone (`max_prompt_tokens=96`) when
only one section has it. Unknown keys and all faults are reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tamis.cli.settings_paths import placed
from tamis.data.load import DataConfig
from tamis.data.template import RenderConfig
from tamis.errors import ConfigError, unknown_name
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.prompts import PromptKind
from tamis.methods import build_method, method_class, settings_error
from tamis.models.config import ModelConfig
from tamis.selection.select import SelectConfig
from tamis.training.config import FinetuneConfig

SettingsT = TypeVar("SettingsT", bound=BaseModel)


class Section(BaseModel):
    """Part of a settings file: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MethodConfig(Section):
    """A ranking method and its options."""

    name: str = "seal"
    """Method key, or module:Class."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The method's own settings; `preset` fills in a preset's values first."""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """Accept {name: seal, epochs: 2} for {name: seal, options: {epochs: 2}}."""
        if isinstance(value, Mapping) and "options" not in value:
            options = {k: v for k, v in value.items() if k not in cls.model_fields}
            return {**{k: v for k, v in value.items() if k not in options}, "options": options}
        return value

    def resolved(self) -> dict[str, Any]:
        """Return every option with its value, defaults included."""
        built = build_method(self.name, self.options)
        options = built.model_dump(mode="json") if isinstance(built, BaseModel) else self.options
        return {"name": self.name, **options}


class RankSettings(Section):
    """`tamis rank`."""

    method: MethodConfig = MethodConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    safe_data: DataConfig | None = None
    """How the safe set's records are understood; None is as `data`."""
    render: RenderConfig = RenderConfig()
    cache_gib: float = Field(100.0, gt=0)
    """Largest disk space for features of rows, in the cache or in the stage's own folder."""


class ScoreSettings(Section):
    """`tamis score`."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    render: RenderConfig = RenderConfig()


class SelectSettings(Section):
    """`tamis select`."""

    select: SelectConfig
    data: DataConfig = DataConfig()


class FinetuneSettings(Section):
    """`tamis finetune`."""

    finetune: FinetuneConfig = FinetuneConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    render: RenderConfig = RenderConfig()


class EvaluateSettings(Section):
    """`tamis evaluate`."""

    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    model: ModelConfig = ModelConfig()
    render: RenderConfig = RenderConfig()


class InspectSettings(Section):
    """`tamis inspect`."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    render: RenderConfig = RenderConfig()


class PromptPaths(Section):
    """Evaluation prompts; None is the shipped set (`pairs`: shipped openings)."""

    harmful: Path | None = None
    over_refusal: Path | None = None
    helpful: Path | None = None
    pairs: Path | None = None

    def by_kind(self) -> dict[PromptKind, Path | None]:
        """Return the files of prompts, without the pairs."""
        return {"harmful": self.harmful, "over_refusal": self.over_refusal, "helpful": self.helpful}


class RunConfig(Section):
    """`tamis run`: every verb in order, from one file. Paths are relative to the file."""

    finetuning_set: str
    """File, folder or hub id of the rows to rank."""
    safe_set: str | None = None
    """File, folder or hub id of trusted rows."""
    harmful_set: str | None = None
    """File, folder or hub id of rows known to be harmful."""
    trusted_set: str | None = None
    """File, folder or hub id of hand-checked rows; may be the fine-tuning set."""
    trusted_labels: Path | None = None
    """JSONL of `id` and `harmful` for some of them: what a method may learn from."""
    labels: Path | None = None
    """JSONL of `id` and `harmful`, when the truth is known."""
    rows: Path | None = None
    """List of ids: restrict everything to these rows."""
    cache: Path | None = None
    """Folder of what the model makes of rows, shared by rankings; None keeps nothing."""
    cache_gib: float = Field(100.0, gt=0)
    """Largest disk space for it."""
    out: Path
    """Folder for one subfolder per stage, and the report."""
    seed: int = Field(0, ge=0)
    device: str | None = None
    dtype: str | None = None
    method: MethodConfig = MethodConfig()
    model: ModelConfig = ModelConfig()
    """The model to fine-tune and evaluate."""
    ranking_model: ModelConfig | None = None
    """The model to rank with; None is `model`."""
    data: DataConfig = DataConfig()
    safe_data: DataConfig | None = None
    render: RenderConfig = RenderConfig()
    select: SelectConfig = SelectConfig(ratio=0.8)
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    prompts: PromptPaths = PromptPaths()

    @classmethod
    def read(cls, path: Path, sets: Sequence[str] = ()) -> Self:
        """Read a YAML file; paths in it are relative to it."""
        return placed(read_settings(cls, path, sets), path.parent)


def read_settings(
    cls: type[SettingsT],
    path: Path | None,
    sets: Sequence[str],
    given: Mapping[str, Any] | None = None,
) -> SettingsT:
    """Build a verb's settings: YAML, then what flags gave, then `--set`.

    Args:
        cls: The settings class.
        path: YAML file; None starts from the defaults.
        sets: `key=value` texts; values are YAML.
        given: Nested values from flags.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or ambiguous, a value is wrong; the
            message names every fault.
    """
    values = _read_yaml(path) if path else {}
    if {"stage", "config", "inputs"} <= values.keys() and "stage" not in cls.model_fields:
        raise ConfigError(
            f"{path} is what tamis wrote down of a finished {values['stage']}, not a file of "
            "settings. Give single settings of its `config` with --set, such as --set "
            "render.max_prompt_tokens=..., or a file that holds just those."
        )
    _merge(values, given or {})
    for text in sets:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--set {text!r} has no '='. Write --set key=value.")
        try:
            parsed = yaml.load(value, _UniqueKeys)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text!r}: the value is not YAML ({error}).") from error
        _merge(values, _nested(_full_key(cls, key.strip(), values), parsed))
    try:
        settings = cls.model_validate(values)
    except ValidationError as error:
        raise settings_error("settings", error) from error
    method = getattr(settings, "method", None)
    if isinstance(method, MethodConfig):
        build_method(method.name, method.options)  # refuse wrong options before any work
    return settings


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice: the last one would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping whose keys differ."""
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is given twice: keep one of them, or give one "
                    "another name", key.start_mark,
                )  # fmt: skip
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config {str(path)!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {str(path)!r} is not a mapping of keys to values.")
    return values


def _full_key(cls: type[BaseModel], key: str, values: Mapping[str, Any]) -> list[str]:
    """Find the section of a key that is written alone."""
    parts = key.split(".")
    if parts[0] in cls.model_fields:
        return parts
    candidates = []
    for section, field in cls.model_fields.items():
        if section == "method":
            raw = values.get("method")
            name = raw.get("name", "seal") if isinstance(raw, Mapping) else "seal"
            fields = {*getattr(method_class(name), "model_fields", {}), "preset"}
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            fields = set(field.annotation.model_fields)
        else:
            continue
        if parts[0] in fields:
            candidates.append(section)
    if not candidates:
        raise unknown_name("setting", key, _all_keys(cls, values), close_to=parts[-1])
    if len(candidates) > 1:
        raise ConfigError(
            f"--set {key} could mean {' or '.join(f'{c}.{key}' for c in candidates)}: write one."
        )
    return [candidates[0], *parts]


def _all_keys(cls: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    keys = list(cls.model_fields)
    for section, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += [f"{section}.{name}" for name in field.annotation.model_fields]
    raw = values.get("method")
    name = raw.get("name", "seal") if isinstance(raw, Mapping) else "seal"
    if "method" in cls.model_fields:
        keys += [f"method.{n}" for n in getattr(method_class(name), "model_fields", {})]
    return keys


def _nested(parts: Sequence[str], value: Any) -> dict[str, Any]:
    result: Any = value
    for part in reversed(parts):
        result = {part: result}
    return dict(result)


def _merge(base: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value
