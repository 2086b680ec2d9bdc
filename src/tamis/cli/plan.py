"""`tamis plan`: measure a few rows, and say what a whole run will take before it starts.

Every stage is run as it will be, on a sample: ranking on FEW_ROWS and on SAMPLE_ROWS rows (some of
them the longest there are) with safe rows in proportion, fine-tuning for two steps, evaluation on a
few prompts. Ranking's time is the line through both measurements, by tokens; the others are scaled
by steps and prompts. Memory is the largest so far, since batches are bounded by tokens and not by
rows; disk is the sample's features, scaled by tokens, and what is kept beside them. A method may
refuse the sample for being small and rank all rows: that is said, and the other stages measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.cli.config import RunConfig
from tamis.cli.judging import read_questions
from tamis.cli.plan_ranking import (
    FEW_ROWS,
    SAMPLE_ROWS,
    Sample,
    attempted,
    draw_sample,
    kept_bytes,
    line_minutes,
    minutes_of,
    safe_part,
)
from tamis.cli.stages import refuse_missing, set_data
from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.data.row_lists import read_row_list
from tamis.errors import ConfigError
from tamis.evaluation.labels import join_labels, labelled_rows, read_labels
from tamis.evaluation.prompts import chosen_prompts, read_pairs
from tamis.memory import peak_rss_gib
from tamis.methods import build_method

if TYPE_CHECKING:
    from tamis.models.load import LanguageModel

SAMPLE_PROMPTS = 4
SAMPLE_STEPS = 2
_GIB = 2**30


@dataclass(frozen=True)
class StageEstimate:
    """What one stage will take; None is what cannot be told.

    Attributes:
        stage: Its name.
        minutes: Expected time.
        memory_gib: Largest memory: of the GPU where there is one, else of the process.
        disk_gib: Largest disk space while it runs.
        measured: What the figures rest on.
        refusal: What the method said where it refused the sample; it may refuse all rows too.
    """

    stage: str
    minutes: float | None
    memory_gib: float | None
    disk_gib: float | None
    measured: str
    refusal: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        stages: One estimate per stage that works with a model.
        n_rows: Rows to rank.
        tokens_per_row: Their mean length under the run's limits.
    """

    stages: list[StageEstimate]
    n_rows: int
    tokens_per_row: float

    @property
    def minutes(self) -> float:
        """Of all stages that can be told."""
        return sum(stage.minutes or 0.0 for stage in self.stages)

    @property
    def memory_gib(self) -> float:
        """The largest of any stage that can be told."""
        return max(stage.memory_gib or 0.0 for stage in self.stages)

    @property
    def untold(self) -> list[str]:
        """Stages that are not in the totals."""
        return [stage.stage for stage in self.stages if stage.minutes is None]

    def to_json(self) -> dict[str, Any]:
        """Return everything, with the totals."""
        totals = {"minutes": self.minutes, "memory_gib": self.memory_gib, "untold": self.untold}
        return {**asdict(self), **totals}

    def refuse_above(self, max_minutes: float | None, max_memory_gib: float | None) -> None:
        """Refuse a run that takes more than is allowed.

        Raises:
            ConfigError: It does, and the message names settings that would fit; or a limit is set
                and a stage cannot be told.
        """
        if self.untold and (max_minutes, max_memory_gib) != (None, None):
            refusals = " ".join(stage.refusal or "" for stage in self.stages).strip()
            raise ConfigError(
                "whether the run keeps to --max-minutes or --max-memory-gib cannot be told: "
                f"{', '.join(self.untold)} stops on the few rows that are measured ({refusals}). "
                "Leave the limits out, or set what it asks for."
            )
        ranking = self.stages[0].minutes
        if max_minutes is not None and ranking is not None and self.minutes > max_minutes:
            left = max_minutes - (self.minutes - ranking)
            n_rows = int(self.n_rows * left / ranking)
            n_tokens = int(self.tokens_per_row * left / ranking)
            advice = (
                f"Ranking would fit with about {n_rows:,} of the {self.n_rows:,} rows (rows: list "
                f"their ids), or with rows of at most {n_tokens:,} tokens, where they have "
                f"{self.tokens_per_row:.0f} on average (render.max_prompt_tokens, "
                "render.max_response_tokens), or with fewer method.epochs where there are several."
                if n_rows > 0 and n_tokens > 0
                else "Fine-tuning and evaluation alone leave no time for ranking: lower "
                "finetune.max_steps, evaluate.max_new_tokens or the number of prompts too."
            )
            raise ConfigError(
                f"the run is expected to take {self.minutes:.3g} minutes, more than --max-minutes "
                f"{max_minutes:g}. {advice}"
            )
        if max_memory_gib is not None and self.memory_gib > max_memory_gib:
            worst = max(self.stages, key=lambda stage: stage.memory_gib or 0.0)
            raise ConfigError(
                f"{worst.stage} is expected to need {worst.memory_gib:.1f} GiB, more than "
                f"--max-memory-gib {max_memory_gib:g}. Halve method.max_batch_tokens (tokens run "
                "at once), set finetune.micro_batch_size=1 and finetune.gradient_checkpointing="
                "true, lower evaluate.batch_size, or take dtype bfloat16 or a smaller model."
            )


def plan_run(config: RunConfig, report: Callable[..., None] | None = None) -> Plan:
    """Measure every stage of a run on a sample.

    Args:
        config: The run.
        report: Progress of the measurement.

    Returns:
        Expected time, memory and disk of every stage.
    """
    from tamis.data.template import render
    from tamis.models.load import load_model

    sets = {name: getattr(config, name) for name in ("safe_set", "harmful_set", "trusted_set")}
    refuse_missing(config.method, sets, config.trusted_labels)
    rows = None if config.rows is None else read_row_list(config.rows)
    examples = load_examples(config.finetuning_set, config.data, rows=rows)
    _check(config, examples)
    trusted = given_sets(config)
    ranking_model = config.ranking_model or config.model
    lm = load_model(ranking_model, device=config.device, dtype=config.dtype)
    sample = draw_sample(
        examples, lambda seen: render(seen, lm.tokenizer, config.render).lengths, config.seed
    )
    say = report or (lambda *_: None)
    stages = []
    with tempfile.TemporaryDirectory(prefix="tamis-plan-") as folder:
        work = Path(folder)
        say("measuring", 0, 3, {})
        stages.append(_rank(config, lm, sample, trusted, work))
        say("measuring", 1, 3, {})
        if ranking_model != config.model:
            del lm
            lm = load_model(config.model, device=config.device, dtype=config.dtype)
        stages.append(_finetune(config, lm, sample, work))
        say("measuring", 2, 3, {})
        stages.append(_evaluate(config, lm))
        say("measuring", 3, 3, {})
    return Plan(stages, len(examples), sample.all_tokens / len(examples))


def _check(config: RunConfig, examples: Examples) -> None:
    """Read the small files a run needs: their faults are told before anything is measured."""
    if config.labels is not None:
        join_labels(examples, read_labels(config.labels))
    read_questions(config.evaluate, config.prompts)
    if config.select.count is not None and config.select.count > len(examples):
        raise ConfigError(
            f"select.count={config.select.count:,} is more than the {len(examples):,} rows there "
            "are: lower it."
        )


def given_sets(config: RunConfig) -> dict[str, Any]:
    """Load what a ranking is given besides its rows, as `tamis rank` does."""
    found: dict[str, Any] = {
        name: load_examples(given, set_data(config, name))
        for name in ("safe_set", "harmful_set", "trusted_set")
        if (given := getattr(config, name)) is not None
    }
    if config.trusted_labels is not None:
        found["trusted_set"], found["trusted_harmful"] = labelled_rows(
            found["trusted_set"], config.trusted_labels
        )
    return found


def _rank(
    config: RunConfig, lm: LanguageModel, sample: Sample, trusted: dict[str, Any], work: Path
) -> StageEstimate:
    from tamis.methods.base import rank

    method = build_method(config.method.name, config.method.options)
    requires = getattr(method, "requires", ())
    others = {**trusted}
    safe = others.pop("safe_set", None)

    def ranked(n: int, name: str) -> tuple[tuple[float, int], Exception | None]:
        """Return minutes and tokens, and how it ended if it was refused: minutes until then."""
        rows = sample.first(n)
        part = None if safe is None else safe_part(
            safe, n, sample.n_rows, getattr(method, "safe_batch_size", 1), config.seed
        )  # fmt: skip
        minutes, refusal = attempted(lambda: rank(
            rows, method, safe_set=part, **others,
            model=lm if "model" in requires else None,
            seed=config.seed, render=config.render, work=work / name,
        ))  # fmt: skip
        return (minutes, sample.tokens(n)), refusal

    ranked(FEW_ROWS, "warm-up")
    (few, few_refused), (many, refused) = ranked(FEW_ROWS, "few"), ranked(SAMPLE_ROWS, "many")
    if refused is not None:
        if str(refused) == str(few_refused):  # of any rows, then: the settings are at fault
            raise refused
        why = f"cannot be told: {config.method.name} stops on {len(sample.ids)} rows"
        return StageEstimate("rank", None, None, None, why, str(refused))
    # Had the few not been refused, they would have taken longer: this is no less than the time.
    minutes = line_minutes(few, many, sample.all_tokens)
    if minutes is None:  # no line: at most in proportion
        minutes = many[0] * sample.all_tokens / many[1]
    disk = kept_bytes(work / "many" / "features", sample.all_tokens / many[1])
    on = f"{config.method.name} on {len(sample.ids)} rows"
    return StageEstimate("rank", minutes, _memory_gib(lm), disk / _GIB, on)


def _finetune(config: RunConfig, lm: LanguageModel, sample: Sample, work: Path) -> StageEstimate:
    from tamis.training.sft import finetune

    rule = config.select
    kept = rule.count or int((rule.ratio or 1.0) * sample.n_rows + 0.5)
    n_steps = config.finetune.steps(kept)
    short = config.finetune.model_copy(update={"max_steps": SAMPLE_STEPS})

    def tuned(name: str) -> None:
        finetune(lm, sample.first(SAMPLE_ROWS), short, config.render, out=work / name,
                 work=work / f"{name}-work", seed=config.seed)  # fmt: skip

    tuned("warm-up-adapter")
    minutes = minutes_of(lambda: tuned("adapter"))
    return StageEstimate(
        "finetune", minutes * n_steps / SAMPLE_STEPS, _memory_gib(lm), 0.0,
        f"{SAMPLE_STEPS} of {n_steps} steps",
    )  # fmt: skip


def _evaluate(config: RunConfig, lm: LanguageModel) -> StageEstimate:
    from tamis.evaluation.evaluate import evaluate

    prompts = chosen_prompts(config.prompts.by_kind())
    pairs = None if config.prompts.pairs is None else read_pairs(config.prompts.pairs)
    n = sum(len(found) for found in prompts.values())
    few: dict[str, Any] = {kind: found[:SAMPLE_PROMPTS] for kind, found in prompts.items()}
    n_few = sum(len(found) for found in few.values())
    minutes = minutes_of(
        lambda: evaluate(
            lm, **few, pairs=None if pairs is None else pairs[:SAMPLE_PROMPTS],
            config=config.evaluate, render_config=config.render, seed=config.seed,
        )
    )  # fmt: skip
    return StageEstimate(
        "evaluate, before and after", 2 * minutes * n / max(1, n_few), _memory_gib(lm), 0.0,
        f"{n_few} of {n} prompts",
    )  # fmt: skip


def _memory_gib(lm: LanguageModel) -> float:
    if lm.device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(lm.device) / _GIB
    return peak_rss_gib()
