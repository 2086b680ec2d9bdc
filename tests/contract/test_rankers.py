"""What every ranking method promises, checked on each of them.

A new method is covered by its line in METHODS. What a method cannot show is skipped with a reason.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import toy
from tamis.data.example import Examples
from tamis.data.load import load_examples
from tamis.errors import (
    ConfigError,
    DataError,
    DuplicateIdError,
    MismatchError,
    NoTrainedTokensError,
)
from tamis.methods import METHODS, build_method, method_class, reads_of
from tamis.methods.base import check_inputs
from tamis.methods.scores import Scores
from tamis.models import batches
from tamis.models.features import FeatureCache
from tamis.models.load import LanguageModel
from tamis.models.lora import layer_count
from toy_ranking import CASES, QUICK, TINY_SEAL, few_rows, inputs_for, ranked

CONTROLS = {
    "uniform": "a control: it draws at random, so there is no signal to find",
    "gradsafe": "it reads prompts alone, and those of the toy are of one kind",
    "guard": "what it finds is what its guard knows, and the toy's guards are random",
    "loss": "a control: it uses no safe set, so what tells the kinds apart is not given to it",
    "trivial": "a control: it counts characters, turns and keywords, which are alike in both kinds",
}
EVERYWHERE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ENOUGH_TO_LEARN: Mapping[str, Mapping[str, Any]] = {
    "amortized": {
        "teacher_options": {
            **TINY_SEAL,
            "epochs": 3,
            "trunk_cut": 0,
            "lora": {"targets": EVERYWHERE},
        },
        "folds": 8,
    },
    "excess": {
        "steps": 30,
        "batch_size": 4,
        "against": "harmful",
        "trunk_cut": 0,
        "lora": {"targets": EVERYWHERE},
    },
    "saft": {"min_margin": 3.0, "min_anchors": 0.0},
    "seal": {"epochs": 3, "trunk_cut": 0, "lora": {"targets": EVERYWHERE}},
}
LONG_ROW = {"prompt": "Tell me about the river", "completion": "water " * 60}

pytestmark = pytest.mark.usefixtures("toy_guards")
every_method = pytest.mark.parametrize("name", sorted(METHODS))
every_case = pytest.mark.parametrize("case", sorted(CASES))
Ranked = Callable[..., Scores]


@pytest.fixture(scope="module")
def baseline(tiny_lm: LanguageModel) -> Callable[[str], Scores]:
    """Scores of the plain inputs, once per case."""
    return functools.cache(lambda case: ranked(case, inputs_for(tiny_lm)))


def assert_same(found: Scores, expected: Scores) -> None:
    """Every column is bit-equal, row by row of the same id."""
    place = {row: i for i, row in enumerate(found.ids)}
    order = [place[row] for row in expected.ids]
    assert [found.outcome[i] for i in order] == list(expected.outcome)
    assert found.values[order].tobytes() == expected.values.tobytes()
    assert set(found.columns) == set(expected.columns)
    for name, column in expected.columns.items():
        assert found.columns[name][order].tobytes() == column.tobytes(), name


def shuffled(examples: Examples) -> Examples:
    """Return the same rows in another order."""
    raws = [examples[i] for i in reversed(range(len(examples)))]
    records = [{"id": row.source_id, "messages": [dataclasses.asdict(m) for m in row.messages]}
               for row in raws]  # fmt: skip
    return load_examples(records)


def with_row(examples: Examples, record: Mapping[str, str]) -> Examples:
    """Return the rows with one more in the middle."""
    records = [{"messages": [dataclasses.asdict(m) for m in row.messages]} for row in examples]
    middle = len(records) // 2
    return load_examples([*records[:middle], dict(record), *records[middle:]])


def weights(lm: LanguageModel) -> dict[str, bytes]:
    """Copy every tensor of the model as bytes."""
    return {name: tensor.numpy().tobytes() for name, tensor in lm.model.state_dict().items()}


def condition(lm: LanguageModel) -> tuple[Any, ...]:
    """Everything else of the model that ranking could leave behind."""
    return (
        [(name, type(module), module.training) for name, module in lm.model.named_modules()],
        [name for name, parameter in lm.model.named_parameters() if parameter.requires_grad],
        [name for name, module in lm.model.named_modules() if "forward" in vars(module)],
        hasattr(lm.model, "peft_config"),
    )


@every_case
def test_ids_are_the_input_ids_in_order(case: str, baseline: Ranked) -> None:
    """Scores come in the data's order, with the user's own ids beside them."""
    rows = few_rows().finetuning_set
    assert list(baseline(case).ids) == rows.ids
    assert list(baseline(case).source_ids) == rows.source_ids


@every_case
def test_scores_are_finite_float64(case: str, baseline: Ranked) -> None:
    """Usable rows all get a number."""
    assert baseline(case).values.dtype == np.float64
    assert np.isfinite(baseline(case).values).all()


@every_case
def test_same_seed_same_bits(case: str, tiny_lm: LanguageModel, baseline: Ranked) -> None:
    """A second run gives every column bit for bit."""
    assert_same(ranked(case, inputs_for(tiny_lm)), baseline(case))


@every_case
def test_row_order_changes_no_score(case: str, tiny_lm: LanguageModel, baseline: Ranked) -> None:
    """Both sets reversed: each id keeps its score, for order comes from ids and seed alone."""
    rows = few_rows()
    inputs = inputs_for(
        tiny_lm,
        finetuning_set=shuffled(rows.finetuning_set),
        safe_set=shuffled(rows.safe_set),
    )
    assert_same(ranked(case, inputs), baseline(case))


@every_case
@pytest.mark.parametrize("tokens", [1, 10_000])
def test_batch_size_and_padding_change_no_score(
    case: str, tokens: int, tiny_lm: LanguageModel, baseline: Ranked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Row by row without padding, or all rows at once: within 1e-5 in float32."""
    if "model" not in method_class(CASES[case][0]).requires:
        pytest.skip("runs no batches")
    monkeypatch.setattr(batches, "CPU_BATCH_TOKENS", tokens)
    found = ranked(case, inputs_for(tiny_lm))
    # Sums of float32 in another order differ by about 1e-6 of a loss of a few nats.
    np.testing.assert_allclose(found.values, baseline(case).values, rtol=0, atol=1e-5)


@every_case
def test_a_shared_cache_changes_no_score(
    case: str, tiny_lm: LanguageModel, baseline: Ranked, tmp_path: Path
) -> None:
    """A second ranking takes the features of the first and gives the same bits."""
    for _ in range(2):
        assert_same(ranked(case, inputs_for(tiny_lm, cache=tmp_path)), baseline(case))


@every_case
def test_reads_names_what_the_ranking_asks(
    case: str, tiny_lm: LanguageModel, baseline: Ranked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sets: no less, or they are read again, and no more, or they are read in vain."""
    inputs = inputs_for(tiny_lm)
    said = reads_of(build_method(*CASES[case]), layer_count(tiny_lm.model))
    if not said:
        pytest.skip("says nothing of what it reads")
    asked: dict[int, set[str]] = {}
    ensure = FeatureCache.ensure

    def watched(cache: FeatureCache, rows: Any, names: Any, progress: Any = None) -> None:
        names = list(names)
        asked.setdefault(id(rows), set()).update(names)
        ensure(cache, rows, names, progress)

    monkeypatch.setattr(FeatureCache, "ensure", watched)
    assert_same(ranked(case, dataclasses.replace(inputs, also=said)), baseline(case))
    given = [which for which in said if getattr(inputs, which) is not None]
    found = {which: asked.get(id(inputs.rendered(which)), set()) for which in given}
    assert found == {which: set(said[which]) for which in given}


@every_method
def test_higher_is_keep_on_a_planted_signal(name: str, tiny_lm: LanguageModel) -> None:
    """Harmful rows answer in other words than the safe set: they end up below the rest."""
    if name in CONTROLS:
        pytest.skip(CONTROLS[name])
    rows = toy.contaminated_set()
    inputs = inputs_for(tiny_lm, finetuning_set=rows.finetuning_set, safe_set=rows.safe_set, seed=0)
    scores = ranked(name, inputs, **ENOUGH_TO_LEARN.get(name, {}))
    assert toy.auroc(-scores.values, rows.harmful) > 0.9


@pytest.mark.parametrize(("name", "need"), sorted(
    (name, need) for name in METHODS for need in method_class(name).requires
))  # fmt: skip
def test_a_missing_input_is_refused_before_the_model_runs(
    name: str, need: str, tiny_lm: LanguageModel
) -> None:
    """The message names the method and the flag that gives the input."""
    handle = tiny_lm.model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        with pytest.raises(ConfigError, match=f"'{name}' needs .*--{need.replace('_', '-')}"):
            ranked(name, inputs_for(tiny_lm, **{need: None}))
    finally:
        handle.remove()


@every_case
def test_the_model_is_left_as_it_was(case: str, tiny_lm: LanguageModel) -> None:
    """Weights bit-equal, no adapter, nothing trainable, eval mode, no method replaced."""
    before = weights(tiny_lm), condition(tiny_lm)
    ranked(case, inputs_for(tiny_lm))
    assert weights(tiny_lm) == before[0]
    assert condition(tiny_lm) == before[1]


@every_case
def test_the_sets_are_left_as_they_were(case: str, tiny_lm: LanguageModel) -> None:
    """Rows in content and order."""
    inputs = inputs_for(tiny_lm)
    sets = [s for s in (inputs.finetuning_set, inputs.safe_set) if s is not None]
    before = [list(rows) for rows in sets]
    ranked(case, inputs)
    assert [list(rows) for rows in sets] == before


@every_case
def test_global_random_state_is_left_as_it_was(case: str, tiny_lm: LanguageModel) -> None:
    """The caller's own draws do not notice a ranking."""
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ranked(case, inputs_for(tiny_lm))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@every_method
def test_an_empty_set_is_refused(name: str, tiny_lm: LanguageModel) -> None:
    """There is nothing to rank."""
    nothing = few_rows().finetuning_set.restrict([])
    with pytest.raises(ConfigError, match="the fine-tuning set is empty"):
        ranked(name, inputs_for(tiny_lm, finetuning_set=nothing))


@every_method
def test_repeated_ids_are_refused(name: str, tiny_lm: LanguageModel) -> None:
    """Two rows of one id could not be told apart in the scores."""
    rows = few_rows().finetuning_set
    twice = Examples(rows._rows, rows.load_report, chosen=[0, 1, 0])
    with pytest.raises(DuplicateIdError, match="repeats an id"):
        ranked(name, inputs_for(tiny_lm, finetuning_set=twice))


@every_method
def test_settings_survive_yaml(name: str) -> None:
    """Resolved settings written as YAML and read again build an equal method."""
    method = build_method(name, QUICK.get(name, {}))
    text = yaml.safe_dump(method.model_dump(mode="json"))
    assert build_method(name, yaml.safe_load(text)) == method


@pytest.mark.parametrize(("name", "preset"), sorted(
    (name, preset) for name in METHODS for preset in method_class(name).presets
))  # fmt: skip
def test_presets_survive_yaml(name: str, preset: str) -> None:
    """A preset's resolved settings build an equal method, which remembers the preset."""
    method = build_method(name, {"preset": preset})
    text = yaml.safe_dump(method.model_dump(mode="json"))
    assert build_method(name, yaml.safe_load(text)) == method


@every_method
def test_settings_are_frozen(name: str) -> None:
    """A method cannot be changed after it was written to a manifest."""
    field = next(iter(method_class(name).model_fields), "requires")
    with pytest.raises((ValueError, AttributeError)):
        setattr(build_method(name), field, None)


@every_method
def test_an_unknown_option_is_refused(name: str) -> None:
    """The message says which option of which method."""
    with pytest.raises(ConfigError, match=f"{name}.no_such_option: unknown option"):
        build_method(name, {"no_such_option": 1})


@every_method
def test_the_docstring_names_a_source(name: str) -> None:
    """The class says where the method is from."""
    assert "Source:" in (method_class(name).__doc__ or "")


@every_case
def test_a_row_without_trained_tokens_is_nan_and_changes_no_other(
    case: str, tiny_lm: LanguageModel, baseline: Ranked
) -> None:
    """An over-long row in each set: NaN with its outcome, and bit-equal scores elsewhere."""
    if "model" not in method_class(CASES[case][0]).requires:
        pytest.skip("reads no tokens: every row has a score")
    rows = few_rows()
    extended = with_row(rows.finetuning_set, LONG_ROW)
    inputs = inputs_for(
        tiny_lm, finetuning_set=extended, safe_set=with_row(rows.safe_set, LONG_ROW)
    )
    scores = ranked(case, inputs)
    (odd,) = np.flatnonzero(np.isnan(scores.values))
    assert (scores.outcome[odd], scores.n_trained_tokens[odd]) == ("too_long", 0)
    before = dict(zip(baseline(case).ids, baseline(case).values, strict=True))
    after = dict(zip(scores.ids, scores.values, strict=True))
    assert {row: after[row] for row in before} == before


@every_case
def test_a_set_without_any_trained_token_is_refused(case: str, tiny_lm: LanguageModel) -> None:
    """Each set alone: the message counts outcomes, and the model is left as it was."""
    before = condition(tiny_lm)
    hopeless = load_examples([LONG_ROW, LONG_ROW])
    needs = method_class(CASES[case][0]).requires
    if "model" not in needs:
        pytest.skip("reads no tokens")
    for which in ("finetuning_set", *sorted(needs - {"model"})):
        changes: dict[str, Any] = {which: hopeless}
        if which == "trusted_set":
            changes["trusted_harmful"] = np.array([True, False])
        with pytest.raises(NoTrainedTokensError, match=r"none of the 2 rows .*too_long"):
            ranked(case, inputs_for(tiny_lm, **changes))
        assert condition(tiny_lm) == before


@functools.cache
def n_reports(case: str) -> int:
    """Count the progress reports of an undisturbed run."""
    seen: list[str] = []
    ranked(case, inputs_for(toy.tiny_lm(), report=lambda stage, *_: seen.append(stage)))
    return len(seen)


def killed_and_resumed(
    case: str, moment: float, lm: LanguageModel, work: Path, n_reports: int, **settings: Any
) -> Scores:
    """Stop a run at one of its progress reports, then rank with another model in its folder."""
    left = round(moment * (n_reports - 1))

    def stop(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ranked(case, inputs_for(toy.tiny_lm(), work=work, report=stop), **settings)
    return ranked(case, inputs_for(lm, work=work), **settings)


@every_case
@pytest.mark.parametrize("moment", [0.0, 0.4, 0.7, 1.0])
def test_a_killed_run_ends_with_the_same_bits(
    case: str, moment: float, tiny_lm: LanguageModel, baseline: Ranked, tmp_path: Path
) -> None:
    """Stopped at any progress report, then ranked by another process in the same folder."""
    reports = n_reports(case)
    if not reports:
        pytest.skip("one step without progress reports: nothing to resume")
    assert_same(killed_and_resumed(case, moment, tiny_lm, tmp_path, reports), baseline(case))


@pytest.mark.parametrize("case", ["excess", "excess-crossfit", "seal", "seal-published"])
def test_a_run_killed_with_dropout_ends_with_the_same_bits(
    case: str, tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    """What dropout draws is a step's own: steps taken again, and later ones, draw the same."""
    dropout: dict[str, Any] = {"lora": {"dropout": 0.3}}
    stages: list[str] = []
    whole = ranked(
        case, inputs_for(tiny_lm, report=lambda stage, *_: stages.append(stage)), **dropout
    )
    steps = [i for i, stage in enumerate(stages) if stage.startswith("training")]
    moment = steps[2] / (len(stages) - 1)  # one step after the first checkpoint
    resumed = killed_and_resumed(case, moment, tiny_lm, tmp_path, len(stages), **dropout)
    assert_same(resumed, whole)


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_stopped_run_leaves_the_model_as_it_was(case: str) -> None:
    """Stopped at the first report of each stage: no adapter and no changed layer stays behind."""
    lm = toy.tiny_lm()
    before = condition(lm)
    stages: list[str] = []
    ranked(case, inputs_for(lm, report=lambda stage, *_: stages.append(stage)))
    for wanted in dict.fromkeys(stages):

        def stop(stage: str, *_: Any, wanted: str = wanted) -> None:
            if stage == wanted:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ranked(case, inputs_for(lm, report=stop))
        assert condition(lm) == before, wanted


@every_case
def test_a_finished_folder_gives_the_scores_again(
    case: str, tiny_lm: LanguageModel, baseline: Ranked, tmp_path: Path
) -> None:
    """Ranking again in the folder of a finished run reads back the same bits."""
    for _ in range(2):
        assert_same(ranked(case, inputs_for(tiny_lm, work=tmp_path)), baseline(case))


@pytest.mark.parametrize(
    ("case", "change", "what"),
    [("seal", {"epochs": 1}, "epochs: 2 there, 1 now"),
     ("excess", {"steps": 5}, "steps: 4 there, 5 now"),
     ("excess-crossfit", {"first_tokens": 2}, "first_tokens: 4 there, 2 now"),
     ("amortized", {"teacher_options": {**TINY_SEAL, "epochs": 1}}, "epochs: 2 there, 1 now")],
)  # fmt: skip
def test_a_folder_of_other_settings_is_refused(
    case: str, change: dict[str, Any], what: str, tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    """What was trained with them is not taken for what is asked now."""
    ranked(case, inputs_for(tiny_lm, work=tmp_path))
    with pytest.raises(MismatchError, match=what):
        ranked(case, inputs_for(tiny_lm, work=tmp_path), **change)


@every_case
def test_scores_survive_parquet(case: str, baseline: Ranked, tmp_path: Path) -> None:
    """Written and read, every column is as it was."""
    scores = baseline(case)
    scores.write(tmp_path)
    read = Scores.read(tmp_path)
    assert (read.method, list(read.ids)) == (scores.method, list(scores.ids))
    assert_same(read, scores)


def test_an_unknown_method_is_refused_with_close_ones() -> None:
    """A typo names the method that was meant."""
    with pytest.raises(ConfigError, match=r"method 'sael' is unknown\. Did you mean 'seal'"):
        build_method("sael")


def test_an_unknown_preset_is_refused() -> None:
    """Presets are a closed list too."""
    with pytest.raises(ConfigError, match=r"preset of seal 'papr' is unknown.*'paper'"):
        build_method("seal", {"preset": "papr"})


OUTSIDE = '''
"""A method of somebody else's: no import of tamis but the result."""
from tamis.methods.scores import Scores


class Shortest:
    """Shorter answers first."""

    requires = frozenset()

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def rank(self, inputs):
        import numpy as np

        rows = inputs.finetuning_set
        values = np.array([-self.factor * len(row.messages[-1].content) for row in rows])
        return Scores("shortest", rows.ids, rows.source_ids, values, ["ok"] * len(rows), None)


class NoMethod:
    """Cannot rank."""
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an importable module that tamis does not ship."""
    (tmp_path / "outside_rankers.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    return "outside_rankers"


def test_an_outside_method_ranks(outside: str, tiny_lm: LanguageModel) -> None:
    """`module:Class` with options works like a shipped method."""
    method = build_method(f"{outside}:Shortest", {"factor": 2.0})
    inputs = inputs_for(tiny_lm)
    check_inputs(method, inputs, "shortest")
    first = inputs.finetuning_set[0].messages[-1].content
    assert method.rank(inputs).values[0] == -2.0 * len(first)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("outside_rankers:Longest", "cannot be imported: .*Longest"),
        ("no_such_module:Any", "cannot be imported: .*no_such_module"),
        ("outside_rankers:NoMethod", r"has no rank\(inputs\) method"),
    ],
)
def test_an_outside_method_that_cannot_rank_is_refused(outside: str, name: str, match: str) -> None:
    """The message says what is missing."""
    with pytest.raises(ConfigError, match=match):
        build_method(name)


def test_an_outside_method_refuses_unknown_options(outside: str) -> None:
    """Its constructor's complaint becomes a configuration error."""
    with pytest.raises(ConfigError, match=r"does not take these options.*no_such_option"):
        build_method(f"{outside}:Shortest", {"no_such_option": 1})


def test_scores_refuse_infinity() -> None:
    """A score is finite or NaN."""
    with pytest.raises(DataError, match="infinite"):
        Scores("any", ["a"], [None], np.array([np.inf]), ["ok"], None)


def test_scores_refuse_nan_without_a_reason() -> None:
    """A missing score says why."""
    with pytest.raises(DataError, match="left 1 rows unscored without a reason: a"):
        Scores("any", ["a", "b"], [None] * 2, np.array([np.nan, 1.0]), ["ok", "ok"], None)
