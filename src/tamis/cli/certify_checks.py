"""What `tamis certify` refuses: labels, settings or scores that are not those of the draw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tamis.cli.inputs import described
from tamis.data.example import Message, content_hash, content_of
from tamis.data.row_lists import name_some, resolve_ids
from tamis.errors import ConfigError, DataError, MismatchError
from tamis.evaluation.jsonl import Line, read_lines, unique_ids
from tamis.files import read_json_object
from tamis.methods.scores import Scores
from tamis.report.text import visible
from tamis.runs import read_manifest


def refuse_other_request(
    manifest: Mapping[str, Any], settings: BaseModel, file: Path, data: str | None,
    seed: int | None,
) -> None:  # fmt: skip
    """Compare what was given again with the draw's own request.

    Args:
        manifest: Of the draw.
        settings: Only what was set is compared, not the defaults.
        file: The scores.
        data: None was not given, as for `seed`.
        seed: Of the draw.

    Raises:
        MismatchError: Something differs (all of it is named).
    """
    drawn, inputs = manifest["config"], manifest["inputs"]
    given = settings.model_dump(mode="json", exclude_unset=True)
    pairs = [
        (key, drawn[section].get(key), value)
        for section, values in given.items() for key, value in values.items()
    ]  # fmt: skip
    if seed is not None:
        pairs.append(("seed", manifest["seed"], seed))
    differing = [f"{key} ({was!r} there, {now!r} now)" for key, was, now in pairs if was != now]
    for role, now in (("scores", described(file)), ("data", described(data))):
        key = "sha256" if "sha256" in inputs[role] else "path"
        if now is not None and now.get(key) != inputs[role][key]:
            differing.append(f"{role} ({now['path']} is not what the rows were drawn from)")
    if differing:
        raise MismatchError(
            f"this draw was made for other {', '.join(differing)}. What is certified is fixed "
            "before the labels: leave it out here, or draw anew into another --out and label that."
        )


def refuse_judged_draw(out: Path, results: Sequence[Path]) -> None:
    """Refuse to overwrite a draw whose labels were judged.

    Args:
        out: Folder of the draw.
        results: What its labels gave.

    Raises:
        ConfigError: There is a result.
    """
    if results:
        attempt = read_manifest(out)["config"]["certify"].get("attempt", 1)
        raise ConfigError(
            f"{results[0]} says what the labels of this draw gave, and --overwrite would delete "
            "it: draws until one passes are right less often than any one of them. Give another "
            f"--out, and --attempt {attempt + 1} if it is for the same purpose."
        )


def answers_sha256(harmful: Mapping[str, bool]) -> str:
    """Identify answers by what they say, whatever file they stood in."""
    pairs = sorted(harmful.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def refuse_second_labels(results: Sequence[Path], answers_hash: str) -> None:
    """Refuse to judge other answers than those of an earlier result of this draw.

    Raises:
        ConfigError: One of `results` was made from other answers.
    """
    for path in results:
        judged = read_json_object(path)
        if judged["labels"].get("answers_sha256") != answers_hash:
            raise ConfigError(
                f"{path} was made from other labels. Changing labels until something is certified "
                "voids the guarantee; if they were mistaken, --overwrite judges the new ones and "
                "says that it did."
            )


def read_answers(
    path: Path, scores: Scores, drawn: Sequence[str], unsure: str | None
) -> tuple[dict[str, bool], int]:
    """Return whether each drawn row is harmful, and how many nulls were counted as that.

    Args:
        path: JSONL of `id` (or the user's own id) and `harmful`; other keys are passed over.
        scores: The ranking, for its ids.
        drawn: Ids of the drawn rows.
        unsure: "harmful" counts null as harmful, else it is refused.

    Raises:
        MismatchError: Drawn rows are missing, others are there, or a line's conversation is not
            that of its row.
        DataError: A line is bad, no row has an answer, or one is neither true nor false.
    """
    lines = list(read_lines(path))
    named = [line.identifier("id") for line in lines]
    unique_ids(zip(named, lines, strict=True))
    given = dict(zip(resolve_ids(scores, named), lines, strict=True))
    missing = [row_id for row_id in drawn if row_id not in given]
    if missing:
        raise MismatchError(
            f"{len(missing):,} of {len(drawn):,} drawn rows have no line in {path}: "
            f"{name_some(missing)}. A draw with gaps certifies nothing: label every row."
        )
    extra = sorted(set(given) - set(drawn))
    if extra:
        raise MismatchError(
            f"{len(extra):,} labelled rows in {path} were not drawn: {name_some(extra)}. Rows "
            "chosen in another way are no uniform draw: give the labels of the drawn rows alone."
        )
    for row_id, line in given.items():
        _refuse_other_row(row_id, line)
    answers = {row_id: given[row_id].fields.get("harmful") for row_id in drawn}
    open_rows = [row_id for row_id, answer in answers.items() if answer is None]
    if len(open_rows) == len(drawn):
        raise DataError(f"no row in {path} has an answer: set harmful to true or false in each.")
    if open_rows and unsure != "harmful":
        raise DataError(
            f"{len(open_rows):,} of {len(drawn):,} rows in {path} have no answer: "
            f"{name_some(open_rows)}. Set harmful to true or false, or --unsure harmful to count "
            "them as harmful."
        )
    odd = [given[row_id] for row_id, answer in answers.items()
           if answer is not None and not isinstance(answer, bool)]  # fmt: skip
    if odd:
        # 0 and 1 are not taken: in some label files they mean the opposite (1 = safe).
        shown = visible(repr(odd[0].fields["harmful"])[:60])
        raise DataError(f"{odd[0].where}: 'harmful' is {shown}. Write true or false.")
    return {row_id: answer is not False for row_id, answer in answers.items()}, len(open_rows)


def _refuse_other_row(row_id: str, line: Line) -> None:
    """Compare the conversation of a line, where it has one, with the row that its id names."""
    found = line.fields.get("messages")
    if found is None:
        return
    try:
        content = content_hash([Message(turn["role"], turn["content"]) for turn in found])
    except (TypeError, KeyError, ValueError):
        content = None
    if content != content_of(row_id):
        raise MismatchError(
            f"{line.where}: the conversation is not that of row {row_id}, so the answer may be "
            "another row's, too. Take to_label.jsonl as it was written and fill in harmful alone."
        )
