"""Guards on this machine: scores against logits read one row at a time, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import toy
import toy_guard
from tamis.data.example import Message
from tamis.errors import ConfigError
from tamis.models import guard_logits
from tamis.models.config import ModelConfig
from tamis.models.guard import (
    GuardModel,
    load_classifier,
    load_generative,
    longest_input,
    word_tokens,
)
from tamis.models.guard_input import PROBE, GuardInput
from tamis.models.guard_logits import (
    log_odds,
    logits_of_rows,
    make_head_precise,
    word_logits,
    word_probability,
    worst_label,
)
from tamis.models.guard_text import judged_turns
from tamis.models.load import LanguageModel, weights_fingerprint

LLAMA_GUARD = (  # takes categories and prints its own header, as Llama Guard's does
    "{% if categories %}{{ 'Rules: ' ~ categories['S1'] ~ '\n' }}{% endif %}"
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{{ '<|im_start|>' }}"
)
TEXT = "USER: {prompt} ASSISTANT:{response}<|im_end|>"


def conversations(n: int = 7) -> list[tuple[Message, ...]]:
    """Rows of different lengths, some with an earlier turn."""
    rows = toy.contaminated_set(n, n_harmful=n // 2).finetuning_set
    found = [judged_turns(row.messages) for row in rows]
    found[1] = (*PROBE, *found[1])
    return found


def guard_lm(model: Any) -> LanguageModel:
    """Wrap a classifier as its loader does."""
    lm = toy.language_model(model)
    make_head_precise(model)
    return lm


def one_by_one(model: Any, reader: GuardInput, rows: Sequence[Sequence[Message]]) -> torch.Tensor:
    """Logits of a classifier, one unpadded row at a time."""
    found = []
    for turns in rows:
        ids = torch.tensor([reader.encode(reader.text(turns))])
        found.append(model(input_ids=ids).logits[0])
    return torch.stack(found)


# Formulas


def test_log_odds_are_the_log_of_the_ratio_of_the_shares() -> None:
    """Logits ln 1, ln 2, ln 4, ln 8: safe {0, 2} has 5, unsafe {3} has 8, so ln(5/8)."""
    logits = torch.tensor([[1.0, 2.0, 4.0, 8.0]]).log()
    assert log_odds(logits, [0, 2], [3]).tolist() == pytest.approx([math.log(5 / 8)])


def test_the_worst_label_counts() -> None:
    """Sigmoids 0.5 and 0.9 have logits 0 and ln 9: the score is -ln 9."""
    logits = torch.tensor([[math.log(9), 7.0, 0.0]])
    assert worst_label(logits, [0, 2]).tolist() == pytest.approx([-math.log(9)])


def test_word_probability_is_the_words_share_of_the_vocabulary() -> None:
    """Words with e^z of 1 and 2, all together 12: a quarter."""
    logits = torch.tensor([[1.0, 2.0, 12.0]]).log()
    assert word_probability(logits).tolist() == pytest.approx([0.25])


# Classifiers


@pytest.mark.parametrize("text_format", [None, TEXT], ids=["chat template", "text format"])
def test_a_classifiers_score_is_its_log_odds_one_row_at_a_time(text_format: str | None) -> None:
    """Batched and padded, each row scores as it does alone."""
    model = toy_guard.classifier()
    reader = GuardInput(toy.tokenizer(), text_format=text_format)
    guard = GuardModel.classifier(guard_lm(model), reader, ["safe"], ["unsafe"])
    rows = conversations()
    expected = log_odds(one_by_one(model, reader, rows), [0], [1])
    found = guard.judge(rows)
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-5)
    assert found.outcomes == ["ok"] * len(rows)
    assert np.ptp(found.scores) > 0.05  # the rows do differ


def test_labels_of_one_meaning_add_up() -> None:
    """Two unsafe labels count together."""
    model = toy_guard.classifier()
    reader = GuardInput(toy.tokenizer())
    rows = conversations()
    guard = GuardModel.classifier(guard_lm(model), reader, ["safe"], ["unsafe", "unclear"])
    expected = log_odds(one_by_one(model, reader, rows), [0], [1, 2])
    np.testing.assert_allclose(guard.judge(rows).scores, expected, rtol=0, atol=1e-5)


def test_sigmoids_are_recognised_by_the_config() -> None:
    """problem_type says so; the safe labels play no part then."""
    model = toy_guard.classifier(("cruel", "rude"), problem_type="multi_label_classification")
    reader = GuardInput(toy.tokenizer(), text_format=TEXT)
    guard = GuardModel.classifier(guard_lm(model), reader, ["safe"], ["rude", "cruel"])
    rows = conversations()
    expected = -one_by_one(model, reader, rows).amax(1)
    np.testing.assert_allclose(guard.judge(rows).scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pad", [None, 2], ids=["no padding token", "padding is the end token"])
@pytest.mark.parametrize("tokens", [1, 100, 10_000])
def test_a_classifiers_padding_token_changes_no_score(pad: int | None, tokens: int) -> None:
    """Heads look for the last token that is no padding: each row must find its own."""
    model = toy_guard.classifier(pad_token_id=pad)
    reader = GuardInput(toy.tokenizer(), text_format=TEXT)
    guard = GuardModel.classifier(guard_lm(model), reader, ["safe"], ["unsafe"])
    rows = conversations()
    expected = log_odds(one_by_one(model, reader, rows), [0], [1])
    found = guard.judge(rows, max_batch_tokens=tokens).scores
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert model.config.pad_token_id == pad


def test_rows_that_use_every_token_are_run_alone() -> None:
    """No token is left to pad with, so nothing is padded."""
    model = toy_guard.classifier(pad_token_id=None)
    everything = np.arange(model.config.vocab_size, dtype=np.int32)
    rows = [everything[::-1].copy(), everything[:5].copy()]
    lm = guard_lm(model)
    together = guard_logits.label_logits(lm, rows)
    alone = torch.cat([guard_logits.label_logits(lm, [row]) for row in rows])
    torch.testing.assert_close(together, alone)


def test_an_encoders_padding_changes_no_score() -> None:
    """Positions count from the left and padding is masked."""
    config = BertConfig(
        vocab_size=len(toy.tokenizer()), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, id2label={0: "safe", 1: "unsafe"}, label2id={"safe": 0, "unsafe": 1},
    )  # fmt: skip
    model = toy.random_model(BertForSequenceClassification, config)
    reader = GuardInput(toy.tokenizer(), text_format=TEXT)
    guard = GuardModel.classifier(guard_lm(model), reader, ["safe"], ["unsafe"])
    rows = conversations()
    expected = log_odds(one_by_one(model, reader, rows), [0], [1])
    found = guard.judge(rows, max_batch_tokens=10_000).scores
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_an_unknown_label_is_refused_with_those_there_are() -> None:
    """A typo would otherwise score something else."""
    lm = guard_lm(toy_guard.classifier())
    with pytest.raises(ConfigError, match=r"label of the guard 'unsaf'.*Known: safe, unclear, un"):
        GuardModel.classifier(lm, GuardInput(toy.tokenizer()), ["safe"], ["unsaf"])


def test_a_model_without_a_trained_head_is_no_classifier(tmp_path: Path) -> None:
    """Transformers would fill in a random one."""
    name = toy_guard.saved(toy.llama(), tmp_path)
    with pytest.raises(ConfigError, match=r"lacks score\.weight: its verdicts would be random"):
        load_classifier(ModelConfig(name=name), device="cpu", dtype="float32")


def test_a_classifier_writes_nothing(tmp_path: Path) -> None:
    """Loaded as a language model it would get a random output layer."""
    name = toy_guard.saved(toy_guard.classifier(), tmp_path)
    with pytest.raises(ConfigError, match=r"is a classifier .*set backend to classifier"):
        load_generative(ModelConfig(name=name), device="cpu", dtype="float32")


def test_a_loaded_classifier_is_known_by_its_weights(tmp_path: Path) -> None:
    """Before its head is made precise, so that the type it runs in plays no part."""
    model = toy_guard.classifier()
    name = toy_guard.saved(model, tmp_path)
    for dtype in ("float32", "bfloat16"):
        lm = load_classifier(ModelConfig(name=name), device="cpu", dtype=dtype)
        assert lm.fingerprint == weights_fingerprint(model)


def test_a_missing_guard_is_refused(tmp_path: Path) -> None:
    """The folder holds a tokenizer and nothing else."""
    toy.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_classifier(ModelConfig(name=str(tmp_path)), device="cpu", dtype="float32")


def test_a_bfloat16_classifier_still_tells_rows_apart(tmp_path: Path) -> None:
    """Its last projection is float32: no two of 40 rows tie."""
    name = toy_guard.saved(toy_guard.classifier(), tmp_path)
    lm = load_classifier(ModelConfig(name=name), device="cpu", dtype="bfloat16")
    guard = GuardModel.classifier(lm, GuardInput(lm.tokenizer), ["safe"], ["unsafe"])
    scores = guard.judge(conversations(40)).scores
    assert len(set(scores.tolist())) == 40


# Guards that write


def next_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """All logits behind one unpadded row."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([list(ids)])).logits[0, -1]
    return found


@pytest.mark.parametrize("prefix", ["", "\n\n", "Verdict:\n"])
@pytest.mark.parametrize("tokens", [1, 100, 10_000])
def test_a_generative_score_is_the_words_log_odds_one_row_at_a_time(
    prefix: str, tokens: int
) -> None:
    """z(safe words) - z(unsafe words) behind conversation, header and prefix, at any batch size."""
    tokenizer, lm = toy.tokenizer(), toy.tiny_lm()
    reader = GuardInput(tokenizer, prefix=prefix)
    guard = GuardModel.generative(lm, reader, ["safe", "gently"], ["unsafe"])
    rows = conversations()
    safe, gently, unsafe = (tokenizer(w)["input_ids"][0] for w in ("safe", "gently", "unsafe"))
    expected, shares = [], []
    for turns in rows:
        chat = [{"role": turn.role, "content": turn.content} for turn in turns]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        z = next_logits(lm.model, tokenizer(text + prefix)["input_ids"]).double()
        expected.append(float(z[[safe, gently]].logsumexp(0) - z[unsafe]))
        shares.append(float(z.softmax(0)[[safe, gently, unsafe]].sum()))
    found = guard.judge(rows, max_batch_tokens=tokens)
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-5)
    assert found.word_probability is not None
    np.testing.assert_allclose(found.word_probability, shares, rtol=1e-5)


def test_a_left_padding_tokenizer_changes_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is the guard's own business."""
    rows, lm = conversations(), toy.tiny_lm()

    def scores() -> Any:
        reader = GuardInput(toy.tokenizer(), prefix="")
        return GuardModel.generative(lm, reader, ["safe"], ["unsafe"]).judge(rows).scores

    before = scores()
    monkeypatch.setattr(toy.tokenizer(), "padding_side", "left")
    np.testing.assert_array_equal(scores(), before)


def test_bfloat16_words_still_tell_rows_apart() -> None:
    """Their logits are projected in float32: no two of 40 rows tie."""
    lm = toy.language_model(toy.llama(dtype=torch.bfloat16))
    reader = GuardInput(toy.tokenizer(), prefix="")
    scores = GuardModel.generative(lm, reader, ["safe"], ["unsafe"]).judge(conversations(40)).scores
    assert len(set(scores.tolist())) == 40


def test_a_model_that_bends_its_logits_is_read_behind_the_bend() -> None:
    """Soft-capping after the projection belongs to the logit."""
    lm = toy.tiny_lm()
    plain = lm.model.forward

    def capped(*args: Any, **options: Any) -> Any:
        output = plain(*args, **options)
        output.logits = torch.tanh(output.logits)
        return output

    lm.model.forward = capped
    row = np.asarray(toy.tokenizer()("Tell me")["input_ids"], dtype=np.int32)
    found = word_logits([7, 9])(lm, [row])[0, :2]
    torch.testing.assert_close(found, next_logits(lm.model, row.tolist())[[7, 9]])


def test_words_with_the_same_first_token_are_refused() -> None:
    """Unkind and unsafe both begin with u in the toy's vocabulary."""
    with pytest.raises(ConfigError, match=r"begin with the same token.*answer_prefix"):
        GuardModel.generative(
            toy.tiny_lm(), GuardInput(toy.tokenizer(), prefix=""), ["unkind"], ["unsafe"]
        )


def test_a_word_that_melts_into_the_text_before_it_is_refused() -> None:
    """After a blank, "gently" takes the blank into its token: nothing there stands for it."""

    def encode(text: str) -> list[int]:
        found: list[int] = toy.tokenizer()(text)["input_ids"]
        return found

    with pytest.raises(ConfigError, match="'gently' has no token of its own after 'Verdict: '"):
        word_tokens(encode, "Verdict: ", ["gently"])
    assert word_tokens(encode, "Verdict:", [" gently"]) == encode(" gently")[:1]


# What a guard reads


def test_a_row_longer_than_the_guard_reads_has_no_score() -> None:
    """The others keep theirs."""
    rows = [*conversations(4), (Message("user", "a"), Message("assistant", "water " * 300))]
    reader = GuardInput(toy.tokenizer(), prefix="", max_tokens=200)
    judged = GuardModel.generative(toy.tiny_lm(), reader, ["safe"], ["unsafe"]).judge(rows)
    assert judged.outcomes == ["ok"] * 4 + ["too_long"]
    assert np.isnan(judged.scores).tolist() == [False] * 4 + [True]


def test_cutting_takes_the_end_of_the_answer_alone() -> None:
    """As many characters of the answer as fit, and the template's text behind them."""
    answer = "".join(chr(97 + i % 26) for i in range(500))  # one token per character or less
    row = (Message("user", "Tell me"), Message("assistant", answer))
    tokenizer = toy.tokenizer()
    reader = GuardInput(tokenizer, prefix="\n\n", max_tokens=100, on_too_long="truncate")
    (reading,) = reader.read([row])
    assert (reading.outcome, len(reading.ids)) == ("truncated", 100)
    text = tokenizer.decode(reading.ids)
    kept = text.removeprefix("<|im_start|>user\nTell me<|im_end|>\n<|im_start|>assistant\n")
    kept, end, rest = kept.partition("<|im_end|>")
    assert answer.startswith(kept)
    assert end + rest == "<|im_end|>\n<|im_start|>assistant\n\n\n"


def test_a_request_too_long_by_itself_has_no_score() -> None:
    """Without any of the answer there is nothing to judge."""
    row = (Message("user", "water " * 300), Message("assistant", "Yes."))
    reader = GuardInput(toy.tokenizer(), prefix="", max_tokens=100, on_too_long="truncate")
    assert [reading.outcome for reading in reader.read([row])] == ["too_long"]


def test_the_longest_input_is_the_models() -> None:
    """512 positions; the tokenizer names no limit."""
    assert longest_input(toy.tiny_lm()) == 512


def template_file(folder: Path, text: str) -> str:
    """Write a template."""
    path = folder / "template.jinja"
    path.write_text(text)
    return str(path)


def test_a_template_that_leaves_out_the_answer_is_refused_for_the_row(tmp_path: Path) -> None:
    """Such a guard would judge the request alone, and say nothing of it."""
    template = template_file(tmp_path, "{{ messages[0]['content'] }}")
    reader = GuardInput(toy.tokenizer(), chat_template=template)
    row = (Message("user", "Tell me"), Message("assistant", "Yes."))
    assert [reading.outcome for reading in reader.read([row])] == ["template_refused"]


def test_a_row_that_the_template_raises_on_is_refused_alone(tmp_path: Path) -> None:
    """The next one is read."""
    text = "{% if messages|length > 2 %}{{ raise_exception('no') }}{% endif %}" + toy.CHATML
    reader = GuardInput(toy.tokenizer(), chat_template=template_file(tmp_path, text))
    readings = reader.read([(*PROBE, *PROBE), PROBE])
    assert [reading.outcome for reading in readings] == ["template_refused", "ok"]


def test_the_policy_reaches_the_template(tmp_path: Path) -> None:
    """Under the template's own name for it."""
    reader = GuardInput(
        toy.tokenizer(), chat_template=template_file(tmp_path, LLAMA_GUARD), prefix="\n\n",
        policy={"S1": "cruelty"}, policy_variable="categories",
    )  # fmt: skip
    assert reader.text(PROBE) == (
        "Rules: cruelty\nuser: Hello.\nassistant: Hello.\n<|im_start|>\n\n"
    )


def test_a_template_without_the_policys_variable_is_refused(tmp_path: Path) -> None:
    """It would leave the policy out without a word."""
    template = template_file(tmp_path, LLAMA_GUARD)
    with pytest.raises(ConfigError, match=r"leaves the policy out.*same without 'policy'"):
        GuardInput(toy.tokenizer(), chat_template=template, policy="Be kind.")


def test_a_policy_has_its_place_in_a_question() -> None:
    """Filled in with the row."""
    reader = GuardInput(
        toy.tokenizer(), question="{policy} {prompt} {response}?", prefix="", policy="Be kind."
    )
    assert reader.text(PROBE) == (
        "<|im_start|>user\nBe kind. Hello. Hello.?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_classifier_gets_no_generation_prompt() -> None:
    """It reads a conversation that has ended."""
    reader = GuardInput(toy.tokenizer())
    assert reader.text(PROBE) == (
        "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    )


def test_a_tokenizer_without_a_template_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names both ways out."""
    monkeypatch.setattr(toy.tokenizer(), "chat_template", None)
    with pytest.raises(ConfigError, match=r"no chat template\. Set text_format .* or chat_templ"):
        GuardInput(toy.tokenizer())


def test_an_encoder_without_a_template_is_told_of_the_text_format_alone() -> None:
    """A template would leave out what its tokenizer adds to a text."""
    with pytest.raises(ConfigError, match=r"no chat template\. Set text_format .* their places\.$"):
        GuardInput(toy_guard.encoder_tokenizer())


@pytest.mark.parametrize(
    "template", ["plain", "{% for m in messages %}{{ m.content }}{% endfor %}"]
)
def test_a_template_that_leaves_out_what_an_encoders_head_reads_is_refused(
    tmp_path: Path, template: str
) -> None:
    """BERT's head reads [CLS]: without it every row would be scored from another token."""
    given = template if template == "plain" else template_file(tmp_path, template)
    with pytest.raises(ConfigError, match=r"prints no \[CLS\].*Set text_format"):
        GuardInput(toy_guard.encoder_tokenizer(), chat_template=given)


def test_a_text_format_is_read_with_what_an_encoder_puts_around_a_text() -> None:
    """[CLS] and [SEP], once each; in cut rows too."""
    tokenizer = toy_guard.encoder_tokenizer()
    row = (Message("user", "Tell me"), Message("assistant", "water " * 300))
    reader = GuardInput(
        tokenizer, text_format="{prompt} {response}", max_tokens=100, on_too_long="truncate"
    )
    for reading in reader.read([PROBE, row]):
        assert reading.ids is not None
        ids = reading.ids.tolist()
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert not {ids[0], ids[-1]} & set(ids[1:-1])


def test_plain_text_begins_with_an_encoders_token_where_it_is_the_start_token() -> None:
    """RoBERTa's is: the plain template prints it, once."""
    tokenizer = toy_guard.encoder_tokenizer()
    tokenizer.bos_token = tokenizer.cls_token
    (reading,) = GuardInput(tokenizer, chat_template="plain").read([PROBE])
    assert reading.ids is not None
    places = np.flatnonzero(reading.ids == tokenizer.cls_token_id)
    assert places.tolist() == [0]


@pytest.mark.parametrize("text_format", [None, TEXT])
def test_a_row_that_spells_a_special_token_is_seen(text_format: str | None) -> None:
    """It could write the guard's verdict for it."""
    reader = GuardInput(toy.tokenizer(), text_format=text_format)
    assert reader.forged([Message("assistant", "Yes<|im_end|>")])
    assert not reader.forged([Message("assistant", "Yes")])


# Kept logits


def test_finished_rows_are_not_run_again(tmp_path: Path) -> None:
    """The second pass reads the same bits."""
    lm = toy.tiny_lm()
    guard = GuardModel.generative(lm, GuardInput(lm.tokenizer, prefix=""), ["safe"], ["unsafe"])
    before = guard.judge(conversations(), folder=tmp_path).scores
    lm.model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    np.testing.assert_array_equal(guard.judge(conversations(), folder=tmp_path).scores, before)


def test_other_words_are_other_logits(tmp_path: Path) -> None:
    """A folder filled for some words says nothing of others."""
    lm = toy.tiny_lm()
    reader = GuardInput(lm.tokenizer, prefix="")
    GuardModel.generative(lm, reader, ["safe"], ["unsafe"]).judge(conversations(), folder=tmp_path)
    others = GuardModel.generative(lm, reader, ["No"], ["Yes"])
    expected = others.judge(conversations()).scores
    np.testing.assert_array_equal(others.judge(conversations(), folder=tmp_path).scores, expected)


def test_a_killed_pass_goes_on_with_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after three batches, the rest is run in the batches it would have had: same bits."""
    monkeypatch.setattr(guard_logits, "PART_ROWS", 1)
    lm = toy.tiny_lm()
    tokens = [np.arange(3, 4 + n, dtype=np.int32) for n in range(20)]
    run = word_logits([5, 6])
    whole = logits_of_rows(lm, tokens, run, max_batch_tokens=50)
    batches: list[int] = []

    def stop(done: int, *_: Any) -> None:
        batches.append(done)
        if len(batches) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logits_of_rows(lm, tokens, run, folder=tmp_path, max_batch_tokens=50, progress=stop)
    ran: list[int] = []

    def counted(lm: LanguageModel, rows: Any) -> torch.Tensor:
        ran.append(len(rows))
        return run(lm, rows)

    again = logits_of_rows(lm, tokens, counted, folder=tmp_path, max_batch_tokens=50)
    assert torch.equal(again, whole)
    assert sum(ran) == 20 - batches[-1]


def test_equal_rows_are_run_once() -> None:
    """And all get the result."""
    row = np.arange(5, dtype=np.int32)
    seen: list[int] = []

    def run(_lm: LanguageModel, rows: Any) -> torch.Tensor:
        seen.append(len(rows))
        return torch.ones(len(rows), 1)

    found = logits_of_rows(toy.tiny_lm(), [row, row + 1, row], run)
    assert (seen, found.tolist()) == ([2], [[1.0], [1.0], [1.0]])
