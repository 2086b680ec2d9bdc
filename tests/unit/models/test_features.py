"""Features by name: what they hold, what one pass computes, what is kept."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from tamis.data.load import load_examples
from tamis.data.rendered import UNTRAINED
from tamis.data.row_views import JoinedRows
from tamis.data.template import RenderConfig, RenderedRows, render
from tamis.errors import ConfigError
from tamis.models import row_store
from tamis.models.feature_names import READINGS, Feature
from tamis.models.features import FeatureCache, expected_bytes
from tamis.models.load import LanguageModel
from tamis.models.loss import has_plain_head
from tamis.models.row_store import PendingParts

ALL = ["loss", "trunk:1", *(f"state:{depth}:{r}" for depth in (0, 1, 2) for r in READINGS)]
UNUSABLE = 3


@functools.cache
def rows() -> RenderedRows:
    """Return seven rows of different lengths; the fourth is too long and set aside."""
    usable = toy.contaminated_set(6, n_harmful=3, n_safe=1).finetuning_set
    records = [{"prompt": r.messages[0].content, "completion": r.messages[1].content}
               for r in usable]  # fmt: skip
    records.insert(UNUSABLE, {"prompt": "Tell me", "completion": "water " * 60})
    config = RenderConfig(max_prompt_tokens=96, max_response_tokens=48, on_too_long="drop")
    return render(load_examples(records), toy.tokenizer(), config)


USABLE = [i for i in range(7) if i != UNUSABLE]


@torch.no_grad()
def plain_states(lm: LanguageModel, index: int) -> list[torch.Tensor]:
    """Hidden states of one row alone, after 0, 1, ... layers, none of them normed at the end."""
    found: list[torch.Tensor] = []
    ids = torch.tensor([rows()[index].input_ids])
    inner = lm.model.model
    handles = [layer.register_forward_pre_hook(lambda _m, a: found.append(a[0][0]))
               for layer in inner.layers]  # fmt: skip
    handles.append(inner.norm.register_forward_pre_hook(lambda _m, a: found.append(a[0][0])))
    lm.model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return found


def expected_state(lm: LanguageModel, index: int, depth: int, reading: str) -> torch.Tensor:
    """Read a state by hand."""
    trained = [t for t, label in enumerate(rows()[index].labels) if label != UNTRAINED]
    states = plain_states(lm, index)[depth]
    places = {"response_mean": trained, "response_first": trained[:1],
              "response_last": trained[-1:], "prompt_last": [trained[0] - 1]}  # fmt: skip
    return states[places[reading]].mean(0)


@pytest.mark.parametrize("max_batch_tokens", [1, 100, 10_000])
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_states_are_those_of_a_row_alone(
    depth: int, reading: str, max_batch_tokens: int, tiny_lm: LanguageModel
) -> None:
    """Whatever it shares a batch with; the row without tokens is NaN."""
    cache = FeatureCache(tiny_lm, max_batch_tokens=max_batch_tokens)
    found = cache.states(rows(), f"state:{depth}:{reading}")
    assert found[UNUSABLE].isnan().all()
    for index in USABLE:
        expected = expected_state(tiny_lm, index, depth, reading)
        # float32 with and without padding: 1e-6 of states of size ten
        torch.testing.assert_close(found[index], expected, rtol=0, atol=2e-5)


def test_the_trunk_has_every_token(tiny_lm: LanguageModel) -> None:
    """As many vectors as the row has tokens, padding left out."""
    cache = FeatureCache(tiny_lm, max_batch_tokens=200)
    cache.ensure(rows(), ["trunk:1"])
    trunk = cache.trunk(rows(), 1)
    for index in USABLE:
        torch.testing.assert_close(trunk(index), plain_states(tiny_lm, index)[1], rtol=0, atol=2e-5)


def forward_passes(lm: LanguageModel, work: Any) -> tuple[int, int]:
    """Count how often the first and the last layer are entered."""
    calls: list[int] = []
    layers = lm.model.model.layers
    handles = [layer.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
               for i, layer in enumerate(layers)]  # fmt: skip
    work()
    for handle in handles:
        handle.remove()
    return calls.count(0), calls.count(len(layers) - 1)


def test_all_names_come_from_one_pass(tiny_lm: LanguageModel) -> None:
    """One batch, one run of the model; afterwards none."""
    cache = FeatureCache(tiny_lm, max_batch_tokens=10_000)
    has_plain_head(tiny_lm.model)
    assert forward_passes(tiny_lm, lambda: cache.ensure(rows(), ALL)) == (1, 1)

    def ask() -> None:
        cache.losses(rows())
        for name in ALL[2:]:
            cache.states(rows(), name)

    assert forward_passes(tiny_lm, ask) == (0, 0)


def test_what_others_will_ask_comes_from_the_same_pass(tiny_lm: LanguageModel) -> None:
    """With the values that it would have had; rows that were said nothing of are read as asked."""
    cache, mine = FeatureCache(tiny_lm, max_batch_tokens=10_000), rows()
    cache.read_with(mine, ALL)
    has_plain_head(tiny_lm.model)
    assert forward_passes(tiny_lm, lambda: cache.ensure(mine, ALL[2:3])) == (1, 1)
    assert forward_passes(tiny_lm, lambda: cache.ensure(mine, ALL)) == (0, 0)
    alone = FeatureCache(tiny_lm, max_batch_tokens=10_000)
    for name in ALL[2:]:
        torch.testing.assert_close(
            cache.states(mine, name), alone.states(rows(), name), equal_nan=True, rtol=0, atol=0
        )
    np.testing.assert_array_equal(cache.losses(mine), alone.losses(rows()))
    assert forward_passes(tiny_lm, lambda: alone.ensure(mine, ["trunk:1"])) != (0, 0)


def test_what_others_will_ask_is_left_where_it_has_no_room(
    tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    """They cost a reading of their own then, and nobody is refused for them."""
    n_tokens = int(rows().lengths[USABLE].sum())
    few = Feature.parse("state:1:response_mean", 2)
    room = expected_bytes([few], n_tokens, len(USABLE), tiny_lm) / 2**30
    cache, mine = FeatureCache(tiny_lm, tmp_path, disk_gib=1.5 * room), rows()
    cache.read_with(mine, ALL)
    cache.ensure(mine, [few.name])
    found = {path.name for path in tmp_path.glob("*/*") if any(path.iterdir())}
    assert found == {few.name.replace(":", "-"), "loss"}  # the smallest first, and no trunk


def test_only_what_is_lacking_is_read(tiny_lm: LanguageModel) -> None:
    """Losses that are there do not run the layers above a trunk again."""
    cache = FeatureCache(tiny_lm)
    cache.ensure(rows(), ["loss"])
    mlp: list[int] = []
    handle = tiny_lm.model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: mlp.append(1))
    cache.ensure(rows(), ["loss", "trunk:1"])
    handle.remove()
    assert mlp == []
    found, expected = cache.trunk(rows(), 1)(USABLE[0]), plain_states(tiny_lm, USABLE[0])[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_a_pass_ends_at_the_deepest_layer_asked_for(tiny_lm: LanguageModel) -> None:
    """States of the first layers do not cost the last."""
    cache = FeatureCache(tiny_lm)
    work = functools.partial(cache.ensure, rows(), ["trunk:1", "state:0:response_mean"])
    first, last = forward_passes(tiny_lm, work)
    # the hook that counts stands before the one that stops
    assert (first, last) == (1, 1)
    mlp: list[int] = []
    handle = tiny_lm.model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: mlp.append(1))
    FeatureCache(tiny_lm).ensure(rows(), ["trunk:1"])
    handle.remove()
    assert mlp == []


def test_rows_of_two_sets_are_computed_once(tiny_lm: LanguageModel) -> None:
    """A row that is in both has the same tokens, so it is there already."""
    cache = FeatureCache(tiny_lm)
    cache.ensure(rows(), ["loss"])
    joined = JoinedRows(rows(), rows())
    assert forward_passes(tiny_lm, lambda: cache.ensure(joined, ["loss"])) == (0, 0)
    found = cache.losses(joined)
    np.testing.assert_array_equal(found[:7], found[7:])


def test_a_killed_pass_goes_on_with_the_same_bits(
    tiny_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle: what was written is not run again, and the rest is the same."""
    monkeypatch.setattr(row_store, "PART_BYTES", 1)
    whole = FeatureCache(tiny_lm, tmp_path / "whole", max_batch_tokens=60)
    whole.ensure(rows(), ALL)

    def stop(done: int, *_: Any) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tiny_lm, tmp_path / "k", max_batch_tokens=60).ensure(rows(), ALL, stop)
    again = FeatureCache(tiny_lm, tmp_path / "k", max_batch_tokens=60)
    seen: list[int] = []
    again.ensure(rows(), ALL, lambda _done, total, _: seen.append(total))
    assert set(seen) <= {1, 2, 3}
    assert again.losses(rows()).tobytes() == whole.losses(rows()).tobytes()
    for name in ALL[2:]:
        expected = whole.states(rows(), name).numpy()
        assert again.states(rows(), name).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("killed", [False, True])
def test_a_stopped_pass_keeps_what_it_has_read(
    killed: bool, tiny_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C keeps every whole batch; a kill, which writes nothing, what the clock had written."""
    whole = FeatureCache(tiny_lm, tmp_path / "whole", max_batch_tokens=60)
    whole.ensure(rows(), ALL)
    if killed:
        monkeypatch.setattr(row_store, "PART_SECONDS", 0.0)
    stopped = FeatureCache(tiny_lm, tmp_path / "k", max_batch_tokens=60)
    total: list[int] = []

    def stop(done: int, n: int, _: Any) -> None:
        total[:] = [n, done]
        if done >= 3:
            if killed:
                monkeypatch.setattr(PendingParts, "write", lambda _self: None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.ensure(rows(), ALL, stop)
    monkeypatch.undo()
    again = FeatureCache(tiny_lm, tmp_path / "k", max_batch_tokens=60)
    seen: list[int] = []
    again.ensure(rows(), ALL, lambda _done, n, _: seen.append(n))
    assert set(seen) == {total[0] - total[1]}
    for name in ALL[2:]:
        expected = whole.states(rows(), name).numpy()
        assert again.states(rows(), name).numpy().tobytes() == expected.tobytes()


def test_another_model_finds_nothing(tiny_lm: LanguageModel, tmp_path: Path) -> None:
    """Features are kept by the fingerprint of the weights."""
    FeatureCache(tiny_lm, tmp_path).ensure(rows(), ["loss"])
    other = toy.tiny_lm(seed=1)
    assert forward_passes(other, lambda: FeatureCache(other, tmp_path).losses(rows()))[0] > 0
    assert forward_passes(tiny_lm, lambda: FeatureCache(tiny_lm, tmp_path).losses(rows()))[0] == 0


def test_states_of_the_last_layer_do_not_cost_the_output_projection(tiny_lm: LanguageModel) -> None:
    """Logits of a whole batch are the largest tensor there is."""
    handle = tiny_lm.model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("head ran"))
    try:
        FeatureCache(tiny_lm).ensure(rows(), ["state:2:response_mean"])
    finally:
        handle.remove()


def test_equal_rows_are_run_once(tiny_lm: LanguageModel) -> None:
    """Three copies of a row: one run, three values."""
    copies = render(load_examples([{"prompt": "Tell", "completion": "gently"}] * 3),
                    toy.tokenizer(), RenderConfig())  # fmt: skip
    totals: list[int] = []
    cache = FeatureCache(tiny_lm)
    cache.ensure(copies, ["loss"], lambda _done, total, _: totals.append(total))
    assert totals == [1]
    assert len(set(cache.losses(copies).tolist())) == 1


def test_a_few_thousand_rows_are_written_whatever_their_size(
    tiny_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses take four bytes each: a killed pass must not wait for 64 MiB of them."""
    monkeypatch.setattr(row_store, "PART_ROWS", 2)
    FeatureCache(tiny_lm, tmp_path, max_batch_tokens=1).ensure(rows(), ["loss"])
    assert len(list(tmp_path.rglob("part-*.safetensors"))) == 3


def test_memory_is_counted_over_calls(tiny_lm: LanguageModel) -> None:
    """What came before stays; what comes when memory is full goes to a folder."""
    cache = FeatureCache(tiny_lm, memory_gib=30 / 2**30)  # 6 losses take 24 bytes
    before = cache.losses(rows())
    assert cache.kept.temporary is None
    cache.ensure(rows(), ["state:1:response_mean"])
    assert cache.kept.temporary is not None
    assert cache.losses(rows()).tobytes() == before.tobytes()
    assert list(cache.kept.temporary.rglob("part-*.safetensors"))


def test_without_a_folder_much_goes_to_a_temporary_one(tiny_lm: LanguageModel) -> None:
    """Past the memory allowed; the values are the same."""
    small = FeatureCache(tiny_lm, memory_gib=0.0)
    assert small.losses(rows()).tobytes() == FeatureCache(tiny_lm).losses(rows()).tobytes()
    assert small.kept.temporary is not None


def test_more_disk_than_allowed_is_refused_before_work(
    tiny_lm: LanguageModel, tmp_path: Path
) -> None:
    """The message gives the sizes and what to set."""
    cache = FeatureCache(tiny_lm, tmp_path, disk_gib=1e-9)
    with pytest.raises(
        ConfigError, match=r"trunk:1 of 6 rows .* GiB are allowed\. Set trunk_cut=0"
    ):
        cache.ensure(rows(), ["trunk:1"])


@pytest.mark.parametrize(
    "name",
    ["los", "trunk:2", "trunk:x", "state:1", "state:3:prompt_last", "state:1:mean", "loss:1"],
)
def test_an_unknown_name_is_refused(name: str, tiny_lm: LanguageModel) -> None:
    """With the names there are."""
    with pytest.raises(
        ConfigError, match=r"does not exist\. Names are loss, trunk:C with C below 2"
    ):
        FeatureCache(tiny_lm).ensure(rows(), [name])
