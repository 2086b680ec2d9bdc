"""What happened to the records of a set while it was read, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tamis.report.records import DataFacts, LoadFacts

NAMES = {
    "data": "Fine-tuning set",
    "safe_set": "Safe set",
    "harmful_set": "Harmful set",
    "trusted_set": "Trusted set",
}
"""The sets that rankings read, by role."""
_NAMED_PROMPTS = 4  # repeated ones told by id


def data_facts(name: str, found: DataFacts | None) -> list[str]:
    """Say what a stage read of a set; nothing where there is none."""
    if found is None:
        return []
    if found.load is None:
        return [f"{name}: {found.n_rows:,} rows."]
    said = load_fact(name, found.load)
    if found.n_rows != found.load.n_loaded:
        said += f" Restricted to {found.n_rows:,} rows."
    return [said, *_bad_file(found.load)]


def load_fact(name: str, load: LoadFacts) -> str:
    """Say how many records of a set were read, left out and repeated."""
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in load.by_kind.items())
    bad = f"{load.n_quarantined:,} bad records left out" + (f" ({kinds})" if kinds else "")
    return (
        f"{name}: {load.n_read:,} records read, {bad}, {load.n_repeated_rows:,} rows repeat an "
        f"earlier row, {load.n_repeated_source_ids:,} repeat an earlier row's own id."
    )


def load_lines(sets: Mapping[str, LoadFacts]) -> list[str]:
    """Say it of every set of a comparison or an experiment, by role."""
    return [
        line for role, load in sets.items()
        for line in (load_fact(NAMES.get(role, role), load), *_bad_file(load))
    ]  # fmt: skip


def _bad_file(load: LoadFacts) -> list[str]:
    return [f"The bad records are in {load.quarantine}."] if load.quarantine else []


def left_out(role: str, n_bad: int, n_read: int, quarantine: str | None = None) -> str:
    """Say in short how many records of a set were left out as bad, and where they are."""
    where = f", see {quarantine}" if quarantine else ""
    return f"{role}: {n_bad:,} of {n_read:,} records are bad and were left out{where}"


def prompts_shared(counts: Mapping[str, int]) -> str:
    """Say how many rows ask prompts of which set; nothing where none does.

    Args:
        counts: Rows by set of prompts.
    """
    return ", ".join(f"{n:,} with {_of(kind)} ones" for kind, n in counts.items() if n)


def repeated_prompt_lines(repeated: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Say of every set of prompts which of them stand in it before; nothing of the others.

    Args:
        repeated: Ids of the later ones, by set.
    """
    for kind, ids in repeated.items():
        if ids:
            named = ", ".join(ids[:_NAMED_PROMPTS])
            more = f" and {len(ids) - _NAMED_PROMPTS:,} more" if len(ids) > _NAMED_PROMPTS else ""
            yield (
                f"{len(ids):,} {_of(kind)} prompts repeat one of their set, up to case and "
                f"punctuation ({named}{more}): such a prompt counts again in every figure, and "
                "intervals are too narrow."
            )


def _of(kind: str) -> str:
    return kind.replace("_", "-")
