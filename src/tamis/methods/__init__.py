"""The ranking methods, one file each. To add one: write the file, add one line here."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tamis.errors import ConfigError, unknown_name

METHODS: dict[str, str] = {
    "amortized": "tamis.methods.amortized:Amortized",
    "auto": "tamis.selection.auto:Auto",
    "contrast": "tamis.methods.contrast:Contrast",
    "direction": "tamis.methods.direction:Direction",
    "dsir": "tamis.methods.dsir:DSIR",
    "excess": "tamis.methods.excess:Excess",
    "gradient": "tamis.methods.gradient:Gradient",
    "gradsafe": "tamis.methods.gradsafe:GradSafe",
    "guard": "tamis.methods.guard:Guard",
    "loss": "tamis.methods.loss:Loss",
    "probe": "tamis.methods.probe:Probe",
    "saft": "tamis.methods.saft:SAFT",
    "seal": "tamis.methods.seal:SEAL",
    "trivial": "tamis.methods.trivial:Trivial",
    "uniform": "tamis.methods.uniform:Uniform",
}
NEEDS = frozenset({"model", "safe_set", "harmful_set", "trusted_set"})  # what `requires` may name


def method_class(name: str) -> type[Any]:
    """Return a method's class by key, or an outside class by `module:Class`.

    Raises:
        ConfigError: The key is unknown, or the class cannot be imported, has no `rank` or requires
            what there is not.
    """
    if ":" not in name and name not in METHODS:
        raise unknown_name("method", name, METHODS)
    module_name, _, class_name = METHODS.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"method {name!r} cannot be imported: {error}. Give module:Class of a module "
            "that Python can import."
        ) from error
    if not callable(getattr(found, "rank", None)):
        raise ConfigError(f"{name} has no rank(inputs) method, so it cannot rank rows.")
    check_requires(getattr(found, "requires", None), name)
    return type(found) if not isinstance(found, type) else found


def check_requires(requires: Any, name: str) -> None:
    """Refuse a `requires` that is no set of what can be given.

    Raises:
        ConfigError: It is missing, of another type, or names something else.
    """
    if not isinstance(requires, set | frozenset) or not requires <= NEEDS:
        raise ConfigError(
            f"{name} has requires = {requires!r}, which is no set of {', '.join(sorted(NEEDS))}. "
            'Set it to what must be given, such as frozenset({"model"}); frozenset() is nothing.'
        )


def build_method(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Build a method from its key and options; `preset` fills in a preset's values first.

    Raises:
        ConfigError: Unknown method, preset or option, or a value out of range.
    """
    from pydantic import BaseModel, ValidationError

    from tamis.methods.base import Method

    cls = method_class(name)
    values = dict(options or {})
    preset = values.get("preset")
    if preset is not None:
        presets = getattr(cls, "presets", {})
        if preset not in presets:
            raise unknown_name(f"preset of {name}", str(preset), presets)
        if not issubclass(cls, Method):  # a Method starts from its preset by itself
            del values["preset"]
            values = with_preset(presets[preset], values)
    if issubclass(cls, BaseModel):
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise settings_error(name, error) from error
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"method {name!r} does not take these options: {error}.") from error


def with_preset(preset: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Put values over a preset's; those of a nested group, such as `lora`, one by one."""
    merged = {**preset, **values}
    for key in preset.keys() & values.keys():
        theirs, given = preset[key], values[key]
        if hasattr(given, "model_dump"):  # settings as an object: what was set in it
            given = given.model_dump(exclude_unset=True)
        if isinstance(theirs, Mapping) and isinstance(given, Mapping):
            merged[key] = {**theirs, **given}
    return merged


_SCHEMA_PART = re.compile(r"[a-z-]+\[.*\]")  # pydantic's own name of a choice, no key of the user's


def settings_error(what: str, error: Any) -> ConfigError:
    """Turn pydantic's list of faults into one message that names every option."""
    lines = []
    for fault in error.errors():
        parts = [str(part) for part in fault["loc"]]
        key = ".".join([what, *(part for part in parts if not _SCHEMA_PART.fullmatch(part))])
        whole = fault["type"] == "missing" or not fault["loc"]  # the input is all settings then
        given = "" if whole else f" (given: {fault['input']!r})"
        reason = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            reason = "unknown option"
        lines.append(f"{key}: {reason}{given}")
    return ConfigError("; ".join(lines).removesuffix(".") + ".")


def reads_of(ranker: Any, n_layers: int) -> dict[str, list[str]]:
    """Return what `Method.reads` says; of a ranker that does not say, nothing."""
    reads = getattr(ranker, "reads", None)
    return {} if reads is None else reads(n_layers)


def merged_reads(found: Iterable[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Join what several rankers read, each name once."""
    names: dict[str, dict[str, None]] = {}
    for reads in found:
        for which, some in reads.items():
            names.setdefault(which, {}).update(dict.fromkeys(some))
    return {which: list(some) for which, some in names.items()}
