"""Take the weights that matter most for harmful text out of a fine-tuned adapter.

W is the weight of a linear layer (O x I), x_t its input where a token t is predicted.

    importance (Wanda)  I_ij(S) = |W_ij| sqrt(mean_t x_tj^2),  t: the trained tokens of the set S
    net importance      N = I(harmful) / mean I(harmful) - benign_weight * I(safe) / mean I(safe)
    mask                M_ij = 1 for the round(share * I) largest N_ij of each output row i, as far
                        as they are above 0
    pruned weight       W <- W (1 - M)

W are the factors A and B of the adapter; the base model is left alone, and both importances are
those of the adapter as it was fine-tuned. Means are over one tensor's weights, so both sets speak
equally loud in every tensor, however large the states are on either. With benign_weight = 1 they
cancel in sum, and a weight is taken out for mattering more to harmful text than to safe text; one
that does not stays, whatever the share.

Source: Huang et al., "Antidote: Post-fine-tuning Safety Alignment for Large Language Models against
Harmful Fine-tuning", ICML 2025, arXiv:2408.09600. The importance is Wanda's: Sun et al. 2023,
arXiv:2306.11695.
Differs: only positions where trained tokens are predicted count (the released code counts prompts
and padding); importance on a safe set is subtracted (benign_weight = 0 is the published mask), and
the mask ends where the net importance is 0; the number per row is rounded to the nearest and a
tensor too narrow for the share is named; what was taken out can be put back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tamis.data.anchors import shipped_anchors
from tamis.data.example import Examples
from tamis.data.rendered import RenderedRows
from tamis.data.row_lists import name_some
from tamis.data.template import RenderConfig, render
from tamis.errors import ConfigError, MismatchError
from tamis.files import write_json
from tamis.models.features import Progress
from tamis.models.linear_inputs import LinearInputs, linear_inputs
from tamis.models.load import LanguageModel, adapter_folder, with_adapter
from tamis.models.lora import detach_adapters
from tamis.training.config import PruneConfig
from tamis.training.prune_mask import (
    MASK_FILE,
    AdapterWeights,
    read_adapter,
    write_adapter,
    write_mask,
)
from tamis.training.prune_report import (
    PrunedTensor,
    PruneReport,
    pruning_notes,
    refuse_no_numbers,
    refuse_nothing_removed,
)


def weight_importance(weight: Tensor, mean_squares: Tensor) -> Tensor:
    """|W_ij| sqrt(m_j): Wanda's importance of every weight (float64, O x I), >= 0.

    Args:
        weight: W (O x I).
        mean_squares: m, mean squares of the layer's inputs (float64, I).
    """
    return weight.double().abs() * mean_squares.sqrt()


def net_importance(harmful: Tensor, benign: Tensor | None, benign_weight: float) -> Tensor:
    """Importance on harmful text minus importance on benign text, each with mean 1 (O x I).

    Args:
        harmful: Importance on harmful text (O x I).
        benign: On benign text; None subtracts nothing.
        benign_weight: Factor of the latter.
    """
    net = _unit_mean(harmful)
    return net if benign is None else net - benign_weight * _unit_mean(benign)


def _unit_mean(importance: Tensor) -> Tensor:
    mean = importance.mean()
    return importance / mean if mean > 0 else importance


def top_places(importance: Tensor, share: float) -> Tensor:
    """Places of the largest values of each row that are above 0: row * I + column, ascending.

    At most round(share * I) of each row; halves are rounded up, of equal values the first is taken.

    Args:
        importance: N (O x I).
        share: In (0, 1).

    Returns:
        int64 [n].
    """
    n_columns = importance.shape[1]
    order = importance.argsort(dim=1, descending=True, stable=True)[:, : _per_row(share, n_columns)]
    starts = n_columns * torch.arange(len(importance))[:, None]
    return (starts + order)[importance.gather(1, order) > 0].sort().values


def _per_row(share: float, n_columns: int) -> int:
    return int(share * n_columns + 0.5)


def prune_adapter(
    lm: LanguageModel, adapter: Path, *, harmful_set: Examples | None, safe_set: Examples | None,
    config: PruneConfig, render_config: RenderConfig, out: Path, progress: Progress | None = None,
) -> PruneReport:  # fmt: skip
    """Prune a fine-tuned adapter and save it with what restores it.

    Args:
        lm: The base model, without the adapter; it is left as it was.
        adapter: The adapter's folder, or a stage's folder with `adapter/` inside.
        harmful_set: Rows whose weights go; None takes the shipped anchors that comply, without
            substance, and says so.
        safe_set: Rows whose weights stay; may be None when `config.benign_weight` is 0.
        config: How much.
        render_config: Template and limits; the same as in fine-tuning.
        out: Folder for `adapter/`, `mask.safetensors` and `mask.json` (the report).
        progress: Called with (rows done, rows in all, {}); every row is run twice.

    Returns:
        What was done. It does not depend on the order of the rows.

    Raises:
        ConfigError: No adapter, one without LoRA on linear modules, one whose shapes do not fit,
            weights or losses that are no numbers, a mask that takes nothing out, a safe set that is
            missing, `out` holds the adapter, or `lm` carries an adapter already.
        MismatchError: The adapter was trained on another base model, or has factors where the
            model has no place for them.
        NoTrainedTokensError: A set has no usable row.
        TruncatedResponseError: See `tamis.data.template.render`.
    """
    if safe_set is None and config.benign_weight:
        raise ConfigError(
            f"benign_weight={config.benign_weight:g} needs a safe set: give --safe-set, or set "
            "benign_weight=0 to prune by harmful rows alone."
        )
    if hasattr(lm.model, "peft_config"):
        raise ConfigError(f"{lm.name} carries an adapter already. Give the base model.")
    folder = adapter_folder(adapter)
    weights = read_adapter(folder)
    if odd := [name for name, found in weights.tensors.items() if not found.isfinite().all()]:
        raise ConfigError(
            f"the adapter in {folder} holds values that are no numbers, in {len(odd)} tensors: "
            f"{name_some(sorted(odd))}. Its training diverged: fine-tune again, at a lower "
            "learning rate."
        )
    notes = []
    if harmful_set is None:
        harmful_set = shipped_anchors().complied
        notes.append(
            f"no harmful set was given: the {len(harmful_set):,} shipped anchors stood for it, "
            "bare compliant openings without substance. They show how complying starts and nothing "
            "of what follows."
        )
    sets = {"harmful_set": harmful_set}
    if safe_set is not None:
        sets["safe_set"] = safe_set
        if shared := set(harmful_set.ids) & set(safe_set.ids):
            notes.append(f"{len(shared):,} rows are in both sets and count on both sides.")
    rows = {name: _usable(name, found, lm, render_config) for name, found in sets.items()}
    tuned = with_adapter(lm, folder)
    try:
        modules = _lora_linears(tuned.model, weights, folder)
        before = _run(tuned, modules, rows, config, progress, second=False)
        squares = {name: found.mean_squares for name, found in before.items()}
        places, tensors = _masks(weights, squares, config)
        with torch.no_grad():
            for name, taken in places.items():
                modules[name].weight.view(-1)[taken.to(lm.device)] = 0
        after = _run(tuned, {}, rows, config, progress, second=True)
    finally:
        detach_adapters(tuned.model)
    losses = {name: (before[name].loss, after[name].loss) for name in rows}
    for name, pair in losses.items():
        refuse_no_numbers(name, pair)
    others = sorted(set(weights.tensors) - {found.name for found in tensors})
    notes += pruning_notes(tensors, others, losses["harmful_set"], config)
    write_mask(out / MASK_FILE, weights, places)
    write_adapter(weights.without(places), out / "adapter", like=folder)
    report = PruneReport(
        adapter=out / "adapter",
        mask=out / MASK_FILE,
        tensors=tensors,
        n_weights=sum(found.n_rows * found.n_columns for found in tensors),
        n_removed=sum(found.n_removed for found in tensors),
        harmful_loss=losses["harmful_set"],
        benign_loss=losses.get("safe_set"),
        n_tokens={name: found.n_tokens for name, found in before.items()},
        rows_by_outcome={name: found.counts() for name, found in rows.items()},
        notes=notes,
    )
    write_json(out / "mask.json", {"settings": config.model_dump(), **report.to_json()})
    return report


def _usable(name: str, examples: Examples, lm: LanguageModel, config: RenderConfig) -> RenderedRows:
    rendered = render(examples, lm.tokenizer, config)
    rendered.check_usable(name.replace("_", " "))
    return rendered


def _run(
    tuned: LanguageModel, modules: Mapping[str, nn.Module], rows: Mapping[str, RenderedRows],
    config: PruneConfig, progress: Progress | None, *, second: bool,
) -> dict[str, LinearInputs]:  # fmt: skip
    """Run all sets once; progress counts from the first of two such passes."""
    n_rows = sum(len(found.id_order) for found in rows.values())
    start = n_rows if second else 0
    results = {}
    for name, found in rows.items():

        def show(done: int, _: int, figures: dict[str, float], start: int = start) -> None:
            assert progress is not None
            progress(start + done, 2 * n_rows, figures)

        results[name] = linear_inputs(
            tuned.model, modules, found, device=tuned.device,
            max_batch_tokens=config.max_batch_tokens, progress=None if progress is None else show,
        )  # fmt: skip
        start += len(found.id_order)
    return results


def _lora_linears(model: Any, weights: AdapterWeights, folder: Path) -> dict[str, nn.Linear]:
    """Return the adapter's linear factors by the name of their weight in its file."""
    found = {
        f"{name.removesuffix('.default')}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.endswith((".lora_A.default", ".lora_B.default"))
    }
    stored = {
        name
        for name, tensor in weights.tensors.items()
        if name.endswith((".lora_A.weight", ".lora_B.weight")) and tensor.ndim == 2
    }
    if unlike := sorted(stored ^ set(found)):
        raise MismatchError(
            f"the adapter in {folder} does not fit the model: {unlike[0]} is only in one of them "
            f"({len(unlike)} such). Give the model it was trained on."
        )
    if not found:
        raise ConfigError(
            f"the adapter in {folder} has no LoRA factors on linear modules, so there is nothing "
            "to prune. Give an adapter of `tamis finetune`, or another plain LoRA adapter."
        )
    return found


def _masks(
    weights: AdapterWeights, squares: Mapping[str, Mapping[str, Tensor]], config: PruneConfig
) -> tuple[dict[str, Tensor], tuple[PrunedTensor, ...]]:
    """Choose what to take out of each tensor, in the order of their names."""
    places: dict[str, Tensor] = {}
    tensors = []
    for name, harmful_squares in sorted(squares["harmful_set"].items()):
        weight = weights.tensors[name]
        harmful = weight_importance(weight, harmful_squares)
        benign = None
        if "safe_set" in squares:
            benign = weight_importance(weight, squares["safe_set"][name])
        taken = top_places(net_importance(harmful, benign, config.benign_weight), config.share)
        if len(taken):
            places[name] = taken
        n_rows, n_columns = weight.shape
        tensors.append(PrunedTensor(
            name, n_rows, n_columns, n_rows * _per_row(config.share, n_columns), len(taken),
            len(taken) / weight.numel(), _part(harmful, taken),
            None if benign is None else _part(benign, taken),
        ))  # fmt: skip
    refuse_nothing_removed(tensors, config)
    return places, tuple(tensors)


def _part(importance: Tensor, places: Tensor) -> float | None:
    whole = float(importance.sum())
    return float(importance.flatten()[places].sum()) / whole if whole else None
