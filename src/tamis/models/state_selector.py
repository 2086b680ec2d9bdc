"""A selector that is a plane in the space of hidden states: it scores rows that were never ranked.

    score(row) = <w, x(row)> + b,   x = the named states of the row, side by side

Whatever standardising, projecting and fitting made it, one vector and one number are left. It is
kept as safetensors and JSON, with the model and the template it was made for; with any other its
numbers would mean nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tamis.data.rendered import RenderedRows
from tamis.errors import DataError, MismatchError
from tamis.files import atomic_path
from tamis.models.features import FeatureCache, Progress

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel

WEIGHTS_FILE, FACTS_FILE = "selector.safetensors", "selector.json"


@dataclass(frozen=True)
class StateSelector:
    """A linear score of hidden states, higher = keep.

    Attributes:
        method: Key of the method that made it.
        names: The states it reads, see `tamis.models.features`.
        weight: w (float64, sum of the states' widths).
        bias: b.
        model: Fingerprint of the ranking model.
        template: Fingerprint of template, tokenizer and limits.
        rendering: What that fingerprint is of.
    """

    method: str
    names: tuple[str, ...]
    weight: np.ndarray
    bias: float
    model: str
    template: str
    rendering: Mapping[str, Any]

    @classmethod
    def made_for(
        cls, lm: LanguageModel, rows: RenderedRows, *, method: str, names: Sequence[str],
        weight: np.ndarray, bias: float,
    ) -> Self:  # fmt: skip
        """Return the plane for this model and rows rendered as these are."""
        facts = rows.facts
        return cls(
            method, tuple(names), weight, bias, lm.fingerprint, facts.fingerprint, facts.rendering
        )

    def values(self, states: np.ndarray) -> np.ndarray:
        """Score rows by their states [n, widths]; returns float64 [n]."""
        return np.asarray(states @ self.weight + self.bias, dtype=np.float64)

    def refuse_other(self, lm: LanguageModel, rows: RenderedRows) -> None:
        """Refuse a model or a rendering it was not made for.

        Raises:
            MismatchError: One of them differs.
        """
        if self.model != lm.fingerprint:
            raise MismatchError(
                f"the selector was made with another model than {lm.name} (their weights differ). "
                "Give the --model it was made with, or rank with this one."
            )
        if self.template != rows.fingerprint:
            raise MismatchError(_other_rendering(self.rendering, rows.facts.rendering))

    def score(
        self, lm: LanguageModel, rows: RenderedRows, progress: Progress | None = None
    ) -> np.ndarray:
        """Score every row, keeping no states; float64 [n], NaN where not usable.

        Raises:
            DataError: Its weights are not as many as its states have numbers.
            MismatchError: See `refuse_other`.
        """
        self.refuse_other(lm, rows)
        values = np.full(len(rows), np.nan)
        for places, states in FeatureCache(lm).read(rows, self.names, progress):
            width = sum(state.shape[1] for state in states)
            if width != len(self.weight):
                raise DataError(
                    f"the selector has {len(self.weight)} weights and its states "
                    f"({', '.join(self.names)}) {width} numbers: its two files are not of one "
                    "ranking. Give the selector/ folder as a ranking wrote it."
                )
            values[places] = self.values(torch.cat(states, dim=1).double().numpy())
        return values

    def save(self, folder: Path) -> None:
        """Write both files into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file({"weight": self.weight, "bias": np.array([self.bias])}, temporary)
        facts = {key: value for key, value in asdict(self).items() if key not in ("weight", "bias")}
        facts["weights_sha256"] = self._weights_sha256()
        with atomic_path(folder / FACTS_FILE) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def _weights_sha256(self) -> str:
        numbers = np.append(self.weight, self.bias).astype("<f8")
        return hashlib.sha256(numbers.tobytes()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> StateSelector:
        """Read both files.

        Raises:
            DataError: They are missing, damaged or do not fit together.
        """
        try:
            facts: dict[str, Any] = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
            tensors = load_file(folder / WEIGHTS_FILE)
            found = cls(
                method=str(facts["method"]), names=tuple(map(str, facts["names"])),
                weight=tensors["weight"].astype(np.float64), bias=float(tensors["bias"][0]),
                model=str(facts["model"]), template=str(facts["template"]),
                rendering=dict(facts["rendering"]),
            )  # fmt: skip
            saved = str(facts["weights_sha256"])
        except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            why = str(error)
            if isinstance(error, FileNotFoundError):
                why = "there is none" if folder.is_dir() else "there is no such folder"
            raise DataError(
                f"{folder} holds no selector that can be read ({why}). Give the folder of a "
                "ranking that saved one, as those by contrast, amortized and probe do."
            ) from error
        if found.weight.ndim != 1 or not np.isfinite([*found.weight, found.bias]).all():
            raise DataError(
                f"{folder} holds no selector: its weights are no vector of finite numbers. Give "
                "the selector/ folder of a ranking that saved one."
            )
        if found._weights_sha256() != saved:
            raise DataError(
                f"{folder} holds a damaged selector: its weights are not those that were saved. "
                "Rank again, or restore the folder."
            )
        return found


def _other_rendering(made: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Say in what two renderings differ, and what to set."""
    settings = [name for name in given if name not in ("template_text", "tokenizer")]
    differ = [name for name in settings if made.get(name) != given[name]]
    if differ:
        listed = ", ".join(f"{name} {made.get(name)} (here {given[name]})" for name in differ)
        sets = " ".join(f"--set render.{name}={_spelt(made.get(name))}" for name in differ)
        return f"the selector was made with other render settings: {listed}. Give {sets}."
    if made.get("tokenizer") != given["tokenizer"]:
        return (
            "the selector was made with another tokenizer than that of the --model given, although "
            "the weights are the same. Give the folder of the model it was made with."
        )
    return (
        "the selector was made with another chat template than that of the --model given. Give the "
        "folder of the model it was made with, or its template as render.chat_template."
    )


def _spelt(value: Any) -> str:
    """Spell a setting as YAML reads it."""
    return value if isinstance(value, str) else json.dumps(value)
