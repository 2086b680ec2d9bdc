"""`tamis prune`: its settings, and what it does and undoes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tamis.cli.config import Section
from tamis.cli.inputs import model_inputs, stage_inputs
from tamis.cli.stages import Common, data_facts, load_set, stage_config, stage_model
from tamis.data.load import DataConfig
from tamis.data.template import RenderConfig
from tamis.errors import ConfigError
from tamis.models.config import ModelConfig
from tamis.runs import Stage, read_manifest
from tamis.training.config import PruneConfig


class PruneSettings(Section):
    """`tamis prune`."""

    prune: PruneConfig = PruneConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    """How the records of the harmful set are understood."""
    safe_data: DataConfig | None = None
    """How the safe set's records are understood; None is as `data`."""
    render: RenderConfig = RenderConfig()


def run_prune(
    settings: PruneSettings, common: Common, *, adapter: Path, harmful_set: str | None = None,
    safe_set: str | None = None, model: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """`tamis prune`: adapter/, mask.safetensors, mask.json, manifest.json.

    `model` is the model of the settings where it is loaded already; it is left as it was.
    """
    if safe_set is None and settings.prune.benign_weight:
        raise ConfigError(
            "pruning spares what matters to safe rows: give --safe-set, or set "
            "prune.benign_weight=0 to prune by harmful rows alone."
        )
    from tamis.models.load import adapter_folder

    config = stage_config(common, settings)
    inputs = stage_inputs(
        adapter=adapter_folder(adapter), harmful_set=harmful_set, safe_set=safe_set,
        **model_inputs(settings.model, settings.render),
    )  # fmt: skip
    with Stage(
        common.out, "prune", config, inputs, seed=common.seed, overwrite=common.overwrite
    ) as stage:
        if stage.finished:
            return stage.manifest()
        given = {"harmful_set": (harmful_set, settings.data),
                 "safe_set": (safe_set, settings.safe_data or settings.data)}  # fmt: skip
        sets = {name: None if source is None else load_set(stage, name, source, understood)
                for name, (source, understood) in given.items()}  # fmt: skip
        model = stage_model(settings.model, common) if model is None else model
        from tamis.training.prune import prune_adapter

        report = common.report
        found = prune_adapter(
            model, adapter, harmful_set=sets["harmful_set"], safe_set=sets["safe_set"],
            config=settings.prune, render_config=settings.render, out=stage.folder,
            progress=None if report is None else partial(report, "pruning"),
        )  # fmt: skip
        return stage.finish(
            model=model.describe(), details=found.to_json(),
            **{name: None if rows is None else data_facts(rows) for name, rows in sets.items()},
        )  # fmt: skip


def run_restore(common: Common, *, adapter: Path) -> dict[str, Any]:
    """`tamis prune --restore`: adapter/ as it was before pruning, manifest.json."""
    from tamis.models.load import adapter_folder
    from tamis.training.prune_mask import MASK_FILE, restore_adapter

    folder = adapter_folder(adapter)
    mask = folder.resolve().parent / MASK_FILE
    inputs = stage_inputs(adapter=folder, mask=mask)
    pruned = folder.resolve().parent / "manifest.json"
    made = read_manifest(pruned.parent) if pruned.is_file() else {}
    source = made.get("inputs", {}).get("adapter")
    with Stage(
        common.out, "prune", {"restore": True}, inputs, seed=common.seed,
        overwrite=common.overwrite,
        # The stage that the pruned adapter was made from says what chose its rows.
        protected=() if source is None else (Path(source["path"]),),
    ) as stage:  # fmt: skip
        if stage.finished:
            return stage.manifest()
        restore_adapter(folder, stage.folder / "adapter", mask=mask)
        # The base model that the adapter fits stays known.
        model = read_manifest(pruned.parent).get("model") if pruned.is_file() else None
        return stage.finish(model=model, details={"restored": str(folder)})
