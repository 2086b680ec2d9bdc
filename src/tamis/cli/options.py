"""Options that several verbs have, with their help, and how they become settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Data = Annotated[str, typer.Option("--data", help="File, folder or hub id of fine-tuning rows.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of this stage.")]
Model = Annotated[str | None, typer.Option("--model", help="Hub id, folder or .gguf; the default "
                                           "is the embedded SmolLM2-135M-Instruct.")]  # fmt: skip
Rows = Annotated[Path | None, typer.Option("--rows", help="List of ids: use only these rows.")]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value, repeatable; wins over "
                                                "the settings file.")]  # fmt: skip
OnBadRow = Annotated[str | None, typer.Option("--on-bad-row", help="quarantine or fail.")]
OnTooLong = Annotated[str | None, typer.Option("--on-too-long", help="truncate, drop or error.")]
Harmful = Annotated[Path | None, typer.Option("--harmful", help="JSONL of id, prompt.")]
OverRefusal = Annotated[Path | None, typer.Option("--over-refusal", help="The same, benign but "
                                                  "touchy.")]  # fmt: skip
Helpful = Annotated[Path | None, typer.Option("--helpful", help="JSONL of id, prompt, reference.")]
Pairs = Annotated[Path | None, typer.Option("--pairs", help="JSONL of id, prompt, safe, harmful.")]
RankedBy = Annotated[list[Path] | None, typer.Option("--scores", help="Folder of a ranking that "
                                                     "chose the rows, where manifests do not lead "
                                                     "to it; repeatable. Its guard may not "
                                                     "judge.")]  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides every random draw.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:N; chosen if unset.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="bfloat16, float32; chosen if unset.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def flags(**values: Any) -> dict[str, Any]:
    """Nest the flags that were given: `model__name=x` becomes {"model": {"name": x}}."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if value is not None:
            section, _, name = key.partition("__")
            result.setdefault(section, {})[name] = value
    return result
