"""Read a finished evaluation: what was asked, how, and what was answered.

`metrics.json`, `generations.jsonl` and `manifest.json` say what happened; the prompts' categories
and references stand only in the files they came from, which may have moved or changed since. Each
set is known by its fingerprint: a file that is no longer the same is not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from tamis.errors import ConfigError, DataError, MismatchError
from tamis.evaluation.answers import Generation
from tamis.evaluation.evaluate import EvaluateConfig
from tamis.evaluation.jsonl import Line, read_lines
from tamis.evaluation.judged import refuse_unscored
from tamis.evaluation.judges import Verdict
from tamis.evaluation.prompts import (
    PROMPT_KINDS,
    Prompt,
    PromptKind,
    PromptPair,
    chosen_prompts,
    prompts_fingerprint,
    read_pairs,
    read_prompts,
    shipped_prompts,
)
from tamis.files import file_sha256, read_json_object
from tamis.runs import read_manifest

GENERATION_FIELDS = (
    "id", "set", "prompt", "response", "n_tokens", "n_cut_prompt_tokens", "incoherent", "rouge_l",
    "right",
)  # fmt: skip
_ASKED_WITH = ("max_new_tokens", "temperature", "n_openings")  # the rest is about judging


@dataclass(frozen=True)
class Questions:
    """What is asked, and how long and how freely it is answered.

    Attributes:
        prompts: Prompts by kind, in their order.
        pairs: Safe and harmful answers to compare; None compares the shipped openings on the
            harmful prompts.
        config: Lengths and temperature.
        without_references: Kinds whose references were lost with their file.
    """

    prompts: Mapping[PromptKind, Sequence[Prompt]]
    pairs: Sequence[PromptPair] | None
    config: EvaluateConfig
    without_references: frozenset[PromptKind] = frozenset()

    def require_references(self) -> None:
        """Check that helpful prompts have something to be measured against.

        Raises:
            MismatchError: Their file was lost.
        """
        if "helpful" in self.without_references:
            raise MismatchError(
                "the helpful prompts' references are needed, and their file is gone or has "
                "changed. Give it with --helpful."
            )


@dataclass(frozen=True)
class ModelToAsk:
    """A model as other programs load it.

    Attributes:
        base: Folder or hub id.
        adapter: Folder of the adapter on it; None without one.
        dtype: Type of the weights; None leaves it to the program.
        load_in_4bit: Whether the base is loaded in 4 bits.
        revision: Of a hub id.
        trust_remote_code: Whether code from the repository may run.
    """

    base: str
    adapter: str | None = None
    dtype: str | None = None
    load_in_4bit: bool = False
    revision: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class FinishedEvaluation:
    """An evaluation's folder, read.

    Attributes:
        folder: Where it lies.
        manifest: Its manifest.
        questions: What was asked.
        generations: What was answered: one mapping of `GENERATION_FIELDS` per prompt.
        verdicts: One mapping of id, set, judge and verdict per judge and prompt.
        notes: What could not be found again, in sentences.
    """

    folder: Path
    manifest: Mapping[str, Any]
    questions: Questions
    generations: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def questions_of_files(
    paths: Mapping[PromptKind, Path | None], pairs: Path | None, config: EvaluateConfig
) -> Questions:
    """Read prompts as `tamis evaluate` does: a set without a file is the shipped one.

    Raises:
        DataError: A file cannot be read, or a line is bad (named).
    """
    return Questions(chosen_prompts(paths), None if pairs is None else read_pairs(pairs), config)


def read_evaluation(
    folder: Path, paths: Mapping[PromptKind, Path | None], pairs: Path | None = None
) -> FinishedEvaluation:
    """Read what `tamis evaluate` left.

    Args:
        folder: Of the finished stage.
        paths: Where prompt sets lie now; None looks where the evaluation found them.
        pairs: Where its pairs lie now; None likewise.

    Raises:
        ConfigError: The folder holds no finished evaluation.
        DataError: One of its files is damaged.
        MismatchError: A given file is not the one that was evaluated, or the pairs are gone.
    """
    manifest = read_manifest(folder)
    if manifest.get("stage") != "evaluate":
        raise ConfigError(
            f"{folder} holds a finished {manifest.get('stage')!r}, not an evaluation. Give the "
            "--out of a `tamis evaluate`."
        )
    metrics = read_json_object(folder / "metrics.json")
    lines = list(read_lines(folder / "generations.jsonl"))
    notes: list[str] = []
    lost: set[PromptKind] = set()
    prompts: dict[PromptKind, Sequence[Prompt]] = {}
    try:
        recorded = metrics["settings"]["prompts"]
        settings = manifest["config"]["evaluate"]
        config = EvaluateConfig(**{name: settings[name] for name in _ASKED_WITH})
        for kind in PROMPT_KINDS:
            came_from = manifest["inputs"].get(kind, {}).get("path")
            found = _found_again(kind, recorded[kind]["fingerprint"], paths.get(kind), came_from)
            if found is None:
                lost.add(kind)
                notes.append(
                    f"{kind}: {came_from or 'the shipped set'} is gone or has changed, so "
                    "categories and references are missing: give its file to have them"
                )
                found = [_bare(line) for line in lines if line.fields.get("set") == kind]
                if not found:
                    raise DataError(f"{folder}: generations.jsonl has no line of the {kind} set.")
            prompts[kind] = found
    except (KeyError, TypeError, AttributeError, pydantic.ValidationError) as error:
        raise DataError(
            f"{folder} is damaged: metrics.json or manifest.json lacks what an evaluation writes "
            f"({error!r}). Evaluate again into another folder."
        ) from error
    return FinishedEvaluation(
        folder=folder,
        manifest=manifest,
        questions=Questions(prompts, _pairs(manifest, pairs), config, frozenset(lost)),
        generations=[{key: line.fields.get(key) for key in GENERATION_FIELDS} for line in lines],
        verdicts=list(_verdicts(lines, str(metrics.get("judge")))),
        notes=notes,
    )


def refuse_unscored_in(folder: Path, most: float) -> None:
    """Fail where a judge of a finished evaluation left more of a set unscored than allowed now.

    Args:
        folder: Of the finished stage.
        most: `max_unscored_share`.

    Raises:
        JudgeError: It did.
        DataError: One of the files is damaged.
    """
    lines = list(read_lines(folder / "generations.jsonl"))
    asked = [(line.fields["set"], line.text("id"), line.text("prompt"),
              line.fields["response"], line.fields["n_tokens"]) for line in lines]  # fmt: skip
    verdicts: dict[str, list[Verdict]] = {}
    for found in _verdicts(lines, str(read_json_object(folder / "metrics.json").get("judge"))):
        verdicts.setdefault(found["judge"], []).append(Verdict(**found["verdict"]))
    for name, given in verdicts.items():
        refuse_unscored(name, [Generation(*one) for one in asked], given, most)


def _found_again(
    kind: PromptKind, fingerprint: str, given: Path | None, came_from: str | None
) -> list[Prompt] | None:
    path = given or (None if came_from is None else Path(came_from))
    try:
        if path is None:
            found = shipped_prompts(kind)
        else:
            found = read_prompts(path, with_reference=kind == "helpful")
    except DataError:
        if given is not None:
            raise
        return None
    if prompts_fingerprint(found) == fingerprint:
        return found
    if given is not None:
        raise MismatchError(
            f"{given} is not the {kind} set of this evaluation (their content differs). Give the "
            "file that was evaluated, or leave it out."
        )
    return None


def _bare(line: Line) -> Prompt:
    return Prompt(line.identifier("id"), line.text("prompt"))


def _pairs(manifest: Mapping[str, Any], given: Path | None) -> list[PromptPair] | None:
    entry = manifest["inputs"].get("pairs")
    if entry is None:
        if given is not None:
            raise MismatchError(
                f"this evaluation compared openings, not the pairs of {given}. Leave --pairs out."
            )
        return None
    path = given or Path(entry["path"])
    if not path.is_file() or file_sha256(path) != entry.get("sha256"):
        raise MismatchError(
            f"the pairs of this evaluation are not in {path}: it is gone or has changed. Give "
            "their file with --pairs."
        )
    return read_pairs(path)


def _verdicts(lines: Iterable[Line], primary: str) -> Iterator[dict[str, Any]]:
    """Yield every judge's verdict on every answer, the primary's first."""
    for line in lines:
        others = line.fields.get("other_verdicts") or {}
        for name, verdict in {primary: line.fields.get("verdict"), **others}.items():
            yield {
                "id": line.fields.get("id"),
                "set": line.fields.get("set"),
                "judge": name,
                "verdict": verdict,
            }
