"""A model's answers to prompts, batch by batch, kept as they come so that a killed run continues.

Batches are formed from the prompts alone (by length in tokens, then by id), so a run that continues
generates the same batches as an undisturbed one, and ends with the same answers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.data.chat_format import TemplateRefusedError
from tamis.data.example import Message
from tamis.data.renderer import RenderConfig, Renderer
from tamis.errors import DataError, MismatchError
from tamis.evaluation.prompts import PROMPT_KINDS, Prompt, PromptKind, prompts_fingerprint
from tamis.rng import derived_seed

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel

_UNLIMITED = {"max_prompt_tokens": 2**31}
_FILE = "generations.jsonl"  # in the work folder: one line per finished batch

Report = Callable[[str, int, int, dict[str, float]], None]  # stage, done, total, figures


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model answered to one prompt.

    Attributes:
        kind: The set the prompt is from.
        id: The prompt's id, unique within its set.
        prompt: The user's turn.
        response: The answer as text without special tokens; None when nothing was generated.
        n_tokens: Tokens of the answer, its end token not counted.
        unscored: Why nothing was generated; None when something was, be it empty.
        n_cut_prompt_tokens: Tokens by which the prompt was shortened; 0 for a whole one.
    """

    kind: PromptKind
    id: str
    prompt: str
    response: str | None
    n_tokens: int
    unscored: str | None = None
    n_cut_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are generated.

    Attributes:
        max_new_tokens: Longest answer in tokens.
        temperature: 0 takes the most likely token; above 0 samples.
        batch_size: Prompts run at once.
    """

    max_new_tokens: int
    temperature: float
    batch_size: int


def answer_prompts(
    lm: LanguageModel,
    sets: Mapping[PromptKind, Sequence[Prompt]],
    decoding: Decoding,
    *,
    render_config: RenderConfig,
    seed: int,
    work: Path | None = None,
    report: Report | None = None,
) -> list[Generation]:
    """Answer every prompt of every set.

    Args:
        lm: The model.
        sets: Prompts by kind.
        decoding: How to generate.
        render_config: Template, and the limit that long prompts are shortened to.
        seed: Of the sampling; each batch has its own.
        work: Folder where finished batches are kept and found again; None keeps nothing.
        report: Called after each batch with ("answers", prompts done, prompts in all, {}).

    Returns:
        One generation per prompt: sets in the order of `PROMPT_KINDS`, prompts in theirs.

    Raises:
        MismatchError: `work` holds answers to another request.
    """
    from tamis.models.generate import generate  # imports torch

    renderer = Renderer(lm.tokenizer, render_config)
    stop = end_of_turn_id(renderer, lm.tokenizer)
    kept = _KeptBatches(work, _request(lm, sets, decoding, renderer, seed))
    total = sum(len(prompts) for prompts in sets.values())
    done = 0
    generations: list[Generation] = []
    for kind in PROMPT_KINDS:
        prompts = sets.get(kind, ())
        tokens, refused, cut = _rendered(prompts, renderer)
        done += len(refused)
        answers: dict[str, tuple[str, int]] = {}
        for number, batch in enumerate(_batches(tokens, decoding.batch_size)):
            found = kept.get(kind, number)
            if found is None:
                continuations = generate(
                    lm,
                    [tokens[name] for name in batch],
                    max_new_tokens=decoding.max_new_tokens,
                    temperature=decoding.temperature,
                    seed=derived_seed(seed, "answers", kind, number),
                    batch_size=len(batch),
                    stops=() if stop is None else (stop,),
                )
                found = {
                    name: _decoded(ids, stop, lm.tokenizer)
                    for name, ids in zip(batch, continuations, strict=True)
                }
                kept.add(kind, number, found)
            answers |= found
            done += len(batch)
            if report is not None:
                report("answers", done, total, {})
        for prompt in prompts:
            response, n_tokens = answers.get(prompt.id, (None, 0))
            generations.append(
                Generation(
                    kind,
                    prompt.id,
                    prompt.prompt,
                    response,
                    n_tokens,
                    refused.get(prompt.id),
                    cut.get(prompt.id, 0),
                )
            )
    return generations


def end_of_turn_id(renderer: Renderer, tokenizer: Any) -> int | None:
    """Return the special token with which the template ends an answer, None if there is none.

    A model trained with the template stops there, although its own settings may name another end
    token and let it run on into a turn of the user's.
    """
    try:
        layout = renderer.format.layout(
            [Message("user", "Hello."), Message("assistant", "Hi.")], [1]
        )
    except TemplateRefusedError:
        return None
    ids: list[int] = tokenizer(layout.end, add_special_tokens=False)["input_ids"]
    return ids[-1] if ids and ids[-1] in tokenizer.added_tokens_decoder else None


def _decoded(ids: Sequence[int], stop: int | None, tokenizer: Any) -> tuple[str, int]:
    """Return an answer's text and number of tokens up to its end."""
    kept = list(ids[: ids.index(stop)] if stop in ids else ids)
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text, len(kept)


def _rendered(
    prompts: Sequence[Prompt], renderer: Renderer
) -> tuple[dict[str, list[int]], dict[str, str], dict[str, int]]:
    """Return token ids by prompt id, reasons for prompts without, and tokens cut off."""
    tokens: dict[str, list[int]] = {}
    refused: dict[str, str] = {}
    cut: dict[str, int] = {}
    whole = Renderer(renderer.tokenizer, renderer.config.model_copy(update=_UNLIMITED))
    for prompt in prompts:
        try:
            tokens[prompt.id] = renderer.prompt([Message("user", prompt.prompt)])
            n_whole = len(whole.prompt([Message("user", prompt.prompt)]))
            cut[prompt.id] = n_whole - len(tokens[prompt.id])
        except DataError as error:
            refused[prompt.id] = str(error)
    return tokens, refused, cut


def _batches(tokens: Mapping[str, Sequence[int]], size: int) -> Iterator[list[str]]:
    order = sorted(tokens, key=lambda name: (len(tokens[name]), name))
    return (order[start : start + size] for start in range(0, len(order), size))


def _request(
    lm: LanguageModel, sets: Mapping[PromptKind, Sequence[Prompt]], decoding: Decoding,
    renderer: Renderer, seed: int,
) -> str:  # fmt: skip
    """Hash everything that decides the answers."""
    parts = {
        "model": lm.fingerprint,
        "dtype": str(lm.dtype),
        "rendering": renderer.facts().fingerprint,
        "sets": {kind: prompts_fingerprint(list(prompts)) for kind, prompts in sets.items()},
        "decoding": [decoding.max_new_tokens, decoding.temperature, decoding.batch_size],
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _KeptBatches:
    """Finished batches in a file: a first line that names the request, then a line per batch."""

    def __init__(self, work: Path | None, request: str) -> None:
        self._path = None if work is None else work / _FILE
        self._batches: dict[tuple[str, int], dict[str, tuple[str, int]]] = {}
        if self._path is None:
            return
        lines = self._whole_lines()
        if not lines:
            self._append({"request": request})
        elif lines[0].get("request") != request:
            raise MismatchError(
                f"{self._path} holds answers of another model, to other prompts or with other "
                "settings. Give another folder, or remove the file to start again."
            )
        for line in lines[1:]:
            self._batches[line["kind"], line["batch"]] = {
                name: (text, n_tokens) for name, text, n_tokens in line["answers"]
            }

    def get(self, kind: PromptKind, number: int) -> dict[str, tuple[str, int]] | None:
        return self._batches.get((kind, number))

    def add(self, kind: PromptKind, number: int, answers: Mapping[str, tuple[str, int]]) -> None:
        if self._path is not None:
            rows = [[name, text, n_tokens] for name, (text, n_tokens) in answers.items()]
            self._append({"kind": kind, "batch": number, "answers": rows})

    def _whole_lines(self) -> list[dict[str, Any]]:
        """Read the file and cut off a last line that a kill left torn."""
        assert self._path is not None  # asked only with a file
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def _append(self, line: Mapping[str, Any]) -> None:
        assert self._path is not None  # asked only with a file
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
