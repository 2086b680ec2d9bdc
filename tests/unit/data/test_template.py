"""Rows as token ids and labels: masks, limits, outcomes, ids."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from tamis.data.example import Examples, Message, ParsedRow
from tamis.data.load import load_examples
from tamis.data.template import RenderConfig, RenderedRow, render, render_prompt
from tamis.errors import ConfigError, DataError, TruncatedResponseError

LONG = "one two three four five six seven eight nine ten"


def _examples(*conversations: list[str]) -> Examples:
    """Build rows from texts of user and assistant in alternation."""
    return Examples.from_records(
        ParsedRow(
            tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)),
            source_id=f"s{n}",
        )
        for n, texts in enumerate(conversations)
    )


def _one(tokenizer: Any, *texts: str, **settings: Any) -> RenderedRow:
    return render(_examples(list(texts)), tokenizer, RenderConfig(**settings))[0]


def _trained_text(tokenizer: Any, row: RenderedRow) -> str:
    text: str = tokenizer.decode(
        [label for label in row.labels if label != -100], clean_up_tokenization_spaces=False
    )
    return text


# -- the mask (T5) --------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["sure here is the answer", "Sure", " I cannot", "\nhello"])
def test_trained_is_the_response_from_its_first_token(any_tokenizer: Any, answer: str) -> None:
    """Labels are -100 over the generation prompt and the ids themselves from there to the end."""
    row = _one(any_tokenizer, "hello world", answer)
    prompt = render_prompt([Message("user", "hello world")], any_tokenizer)
    assert row.input_ids[: row.n_prompt_tokens] == prompt
    assert row.labels[: row.n_prompt_tokens] == [-100] * len(prompt)
    assert row.labels[row.n_prompt_tokens :] == row.input_ids[row.n_prompt_tokens :]
    assert row.input_ids[-1] == any_tokenizer.eos_token_id
    assert row.n_trained_tokens == row.n_response_tokens == len(row.input_ids) - len(prompt)
    assert row.outcome == "ok"


@pytest.mark.parametrize(
    ("name", "template", "trained"),
    [
        ("byte_bpe", None, "sure here<|im_end|>"),
        ("byte_bpe", "plain", " sure here<|im_end|>"),
        ("sentence_piece", None, "sure here </s>"),
    ],
)
def test_trained_text_is_response_and_end(
    request: pytest.FixtureRequest, name: str, template: str | None, trained: str
) -> None:
    """Decoded, the trained tokens are the response and the template's end of turn, no more."""
    tokenizer = request.getfixturevalue(name)
    row = _one(tokenizer, "hello", "sure here", chat_template=template)
    assert _trained_text(tokenizer, row) == trained


def test_a_merged_first_word_is_trained(byte_bpe: Any, tmp_path: Path) -> None:
    """Where "Assistant: " and "sure" share a token in joint text, the first word is still trained.

    The generation prompt ends in a blank, so the border lies inside what BPE makes one token.
    """
    path = tmp_path / "template.jinja"
    path.write_text(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    joint = byte_bpe.tokenize("user: helloassistant: sure")
    assert joint[-1] == "Ġsure"
    row = _one(byte_bpe, "hello", "sure", chat_template=str(path))
    assert _trained_text(byte_bpe, row) == "sure<|im_end|>"


@pytest.mark.parametrize("name", ["byte_bpe", "sentence_piece"])
def test_rows_decode_to_the_templates_text(request: pytest.FixtureRequest, name: str) -> None:
    """Nothing is added to or lost from the rendered text, whatever is put before segments."""
    tokenizer = request.getfixturevalue(name)
    row = _one(tokenizer, "hello world", "sure", "and hello", "one two", train_on="all")
    turns = [
        {"role": role, "content": text}
        for role, text in (("user", "hello world"), ("assistant", "sure"), ("user", "and hello"),
                           ("assistant", "one two"))
    ]  # fmt: skip
    text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
    assert tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False) == text


def test_the_start_token_is_never_doubled(sentence_piece: Any) -> None:
    """The start token is the one the template prints, also where the tokenizer would add one."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(sentence_piece)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    row = _one(tokenizer, "hello", "sure")
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    assert row.input_ids == _one(sentence_piece, "hello", "sure").input_ids


def test_the_last_answer_alone_is_trained_by_default(byte_bpe: Any) -> None:
    """Of three rounds, only the third answer has labels."""
    row = _one(byte_bpe, "hello", "sure", "hello", "here is", "hello", "the answer")
    assert _trained_text(byte_bpe, row) == "the answer<|im_end|>"


def test_all_answers_are_trained_on_request(byte_bpe: Any) -> None:
    """With train_on=all every answer has labels, each with its end token, and no other text."""
    row = _one(byte_bpe, "hello", "sure", "hello", "here is", "hello", "the answer", train_on="all")
    assert _trained_text(byte_bpe, row) == "sure<|im_end|>here is<|im_end|>the answer<|im_end|>"
    last = _one(byte_bpe, "hello", "sure", "hello", "here is", "hello", "the answer")
    assert row.input_ids == last.input_ids


def test_turns_after_the_last_answer_are_left_out(byte_bpe: Any) -> None:
    """A question without answer at the end is neither trained nor shown."""
    assert (
        _one(byte_bpe, "hello", "sure", "more").input_ids
        == _one(byte_bpe, "hello", "sure").input_ids
    )


def test_an_end_token_is_added_where_the_template_has_none(byte_bpe: Any, tmp_path: Path) -> None:
    """The tokenizer's end token is trained at the end of the row; blanks before it are not kept."""
    path = tmp_path / "template.jinja"
    path.write_text("{% for m in messages %}{{ m['content'] + '\n\n' }}{% endfor %}")
    row = _one(byte_bpe, "hello", "sure", chat_template=str(path))
    assert byte_bpe.decode(row.input_ids) == "hello\n\nsure<|im_end|>"
    assert _trained_text(byte_bpe, row) == "sure<|im_end|>"


# -- limits ---------------------------------------------------------------------------------------


def test_long_responses_are_cut_without_an_end(any_tokenizer: Any) -> None:
    """A response of n tokens cut to 4 keeps its first 4, ends in no end token, and counts n - 4."""
    whole = _one(any_tokenizer, "hello", LONG)
    row = _one(any_tokenizer, "hello", LONG, max_response_tokens=4)
    start = whole.n_prompt_tokens
    assert row.input_ids == whole.input_ids[: start + 4]
    assert any_tokenizer.eos_token_id not in row.input_ids[start:]
    assert (row.n_response_tokens, row.n_trained_tokens) == (4, 4)
    assert row.n_cut_response_tokens == whole.n_response_tokens - 4
    assert (row.outcome, row.n_cut_prompt_tokens) == ("truncated", 0)


def test_a_response_that_fits_exactly_keeps_its_end(byte_bpe: Any) -> None:
    """The limit includes the end token; one less cuts just that."""
    n = _one(byte_bpe, "hello", LONG).n_response_tokens
    assert _one(byte_bpe, "hello", LONG, max_response_tokens=n).outcome == "ok"
    assert _one(byte_bpe, "hello", LONG, max_response_tokens=n - 1).n_cut_response_tokens == 1


def test_no_end_token_is_added_after_a_cut(byte_bpe: Any) -> None:
    """A template without end token gets none behind a cut either."""
    row = _one(byte_bpe, "hello", LONG, chat_template="plain", max_response_tokens=5)
    assert byte_bpe.eos_token_id not in row.input_ids


@pytest.mark.parametrize("max_prompt_tokens", [60, 64, 70])
def test_long_prompts_lose_their_beginning(byte_bpe: Any, max_prompt_tokens: int) -> None:
    """The message loses text from the left; headers, the system turn and the answer are whole."""
    text = f"{LONG} {LONG} question"
    whole = _one(byte_bpe, text, "sure")
    header = len(byte_bpe(byte_bpe.apply_chat_template([{"role": "user", "content": ""}],
                 tokenize=False, add_generation_prompt=True))["input_ids"])  # fmt: skip
    limit = header + max_prompt_tokens - 55
    row = _one(byte_bpe, text, "sure", max_prompt_tokens=limit)
    shown = byte_bpe.decode(row.input_ids)
    start, end = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\nsure<|im_end|>"
    kept = shown[shown.index(start) + len(start) : -len(end)]
    assert shown.endswith(end)
    assert 0 < len(kept) < len(text)
    assert text.endswith(kept)
    assert row.n_prompt_tokens <= limit
    assert row.n_cut_prompt_tokens == whole.n_prompt_tokens - row.n_prompt_tokens
    assert row.outcome == "truncated"
    assert _trained_text(byte_bpe, row) == "sure<|im_end|>"


def test_the_room_for_a_prompt_is_used(byte_bpe: Any) -> None:
    """No more is cut than needed: at most one token of room is left over."""
    for limit in range(60, 90):
        row = _one(byte_bpe, f"{LONG} {LONG}", "sure", max_prompt_tokens=limit)
        if row.outcome == "truncated":
            assert limit - 1 <= row.n_prompt_tokens <= limit


def test_old_turns_go_first(byte_bpe: Any) -> None:
    """The last question is whole while older turns still have text to lose."""
    texts = (LONG, LONG, "the question", "sure")
    whole = _one(byte_bpe, *texts)
    row = _one(byte_bpe, *texts, max_prompt_tokens=whole.n_prompt_tokens - 5)
    shown = byte_bpe.decode(row.input_ids)
    assert "the question" in shown
    assert shown.count("<|im_start|>") == 5
    assert shown.count(LONG) == 1


def test_an_answer_that_lost_text_is_not_trained(byte_bpe: Any) -> None:
    """With train_on=all, an earlier answer without its beginning is context only."""
    texts = ("hello", LONG, "the question", "sure")
    whole = _one(byte_bpe, *texts, train_on="all")
    limit = whole.n_prompt_tokens - 10
    row = _one(byte_bpe, *texts, train_on="all", max_prompt_tokens=limit)
    assert _trained_text(byte_bpe, row) == "sure<|im_end|>"
    assert row.n_prompt_tokens <= limit


def test_headers_that_do_not_fit_are_an_outcome(any_tokenizer: Any) -> None:
    """Where not even headers fit, the row is set aside and the reason names the setting."""
    row = _one(any_tokenizer, "hello", "sure", max_prompt_tokens=2)
    assert (row.outcome, row.input_ids) == ("too_long", [])
    assert "max_prompt_tokens=2" in row.detail


def test_rows_too_long_can_be_dropped(byte_bpe: Any) -> None:
    """With on_too_long=drop a long row is set aside with its lengths, others are untouched."""
    rows = render(
        _examples(["hello", LONG], ["hello", "sure"]),
        byte_bpe,
        RenderConfig(max_response_tokens=5, on_too_long="drop"),
    )
    assert rows.counts() == {"ok": 1, "too_long": 1}
    assert (rows[0].input_ids, rows[0].n_trained_tokens) == ([], 0)
    assert f"response of {rows[0].n_response_tokens} tokens" in rows[0].detail
    assert rows[1].outcome == "ok"


def test_rows_too_long_can_be_an_error(byte_bpe: Any) -> None:
    """With on_too_long=error the first five rows are named with their lengths."""
    examples = _examples(*[["hello", f"{LONG} {n}"] for n in range(7)])
    with pytest.raises(TruncatedResponseError, match="7 rows are longer") as caught:
        render(examples, byte_bpe, RenderConfig(max_response_tokens=5, on_too_long="error"))
    message = str(caught.value)
    assert [row_id in message for row_id in examples.ids] == [True] * 5 + [False] * 2
    assert "and 2 more" in message


@pytest.mark.parametrize("setting", [{"max_prompt_tokens": 0}, {"max_response_tokens": 0},
                                     {"max_length": 5}, {"on_too_long": "cut"}])  # fmt: skip
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    """Limits below one token, unknown settings and unknown policies are refused."""
    with pytest.raises(pydantic.ValidationError, match=next(iter(setting))):
        RenderConfig(**setting)


# -- rows that cannot be trained on ---------------------------------------------------------------


@pytest.mark.parametrize("answer", ["", " ", "\n\n"])
def test_an_empty_response_is_isolated(any_tokenizer: Any, answer: str) -> None:
    """A row without response has no tokens and its reason; its neighbours are as if alone."""
    rows = render(_examples(["hello", "sure"], ["hello", answer], ["hello", "here"]), any_tokenizer)
    assert rows.column("outcome").tolist() == ["ok", "no_trained_tokens", "ok"]
    assert rows[1].input_ids == rows[1].labels == []
    assert rows[1].detail == "the response is empty"
    assert rows[0].input_ids == _one(any_tokenizer, "hello", "sure").input_ids
    assert rows[2].input_ids == _one(any_tokenizer, "hello", "here").input_ids


def test_a_response_without_tokens_is_isolated(word_level: Any) -> None:
    """Text for which the tokenizer has no token at all leaves nothing to train on."""
    from tokenizers import normalizers

    tokenizer = copy.deepcopy(word_level)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("zzz", "")
    row = _one(tokenizer, "hello", "zzz")
    assert (row.outcome, row.detail) == ("no_trained_tokens", "the response has no tokens")


def test_a_row_without_answer_is_isolated(byte_bpe: Any) -> None:
    """A conversation without assistant turn trains nothing."""
    assert _one(byte_bpe, "hello").outcome == "no_trained_tokens"


def test_refused_rows_are_isolated(sentence_piece: Any) -> None:
    """A row that the template refuses has the template's reason; the next is rendered."""
    system = ParsedRow(
        (Message("system", "x"), Message("user", "hello"), Message("assistant", "sure"))
    )
    plain = ParsedRow((Message("user", "hello"), Message("assistant", "sure")))
    rows = render(Examples.from_records([system, plain]), sentence_piece)
    assert rows.counts() == {"ok": 1, "template_refused": 1}
    assert "System role not supported" in rows[0].detail


# -- generation prompts ---------------------------------------------------------------------------


def test_generation_prompts_are_shortened_alike(byte_bpe: Any) -> None:
    """A generation prompt loses the same text as the prompt of a training row."""
    config = RenderConfig(max_prompt_tokens=70)
    text = f"{LONG} {LONG}"
    row = render(_examples([text, "sure"]), byte_bpe, config)[0]
    prompt = render_prompt([Message("user", text)], byte_bpe, config)
    assert row.n_cut_prompt_tokens > 0
    assert prompt == row.input_ids[: row.n_prompt_tokens]


def test_impossible_generation_prompts_are_errors(sentence_piece: Any) -> None:
    """A refused or hopelessly long prompt is an error with its reason."""
    with pytest.raises(DataError, match="System role not supported"):
        render_prompt([Message("system", "x"), Message("user", "hello")], sentence_piece)
    with pytest.raises(DataError, match="max_prompt_tokens=1"):
        render_prompt([Message("user", "hello")], sentence_piece, RenderConfig(max_prompt_tokens=1))


def test_a_tokenizer_without_template_is_a_config_error(byte_bpe: Any) -> None:
    """The error says what to set, and setting it works."""
    tokenizer = copy.deepcopy(byte_bpe)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"render\.chat_template"):
        _one(tokenizer, "hello", "sure")
    assert _one(tokenizer, "hello", "sure", chat_template="plain").outcome == "ok"


def test_a_tokenizer_in_python_renders_too(letters: Any) -> None:
    """Without offsets prompts lose whole words, and limits hold."""
    whole = _one(letters, LONG, "sure", chat_template="plain")
    assert letters.decode(whole.input_ids).startswith("User: one two")
    row = _one(letters, LONG, "sure", chat_template="plain", max_prompt_tokens=40)
    shown = letters.decode(row.input_ids)
    assert row.n_prompt_tokens <= 40
    assert LONG.endswith(shown[len("User: ") : shown.index("\n\nAssistant:")])
    assert [label for label in row.labels if label != -100] == letters(" sure")["input_ids"] + [
        letters.eos_token_id
    ]


# -- ids (T3) -------------------------------------------------------------------------------------

ROWS = [{"id": f"r{n}", "prompt": f"hello {n}", "completion": f"{LONG} {n}"} for n in range(6)]


def test_ids_do_not_depend_on_limits(byte_bpe: Any) -> None:
    """Other limits drop other rows, but every row keeps its id and its place."""
    examples = load_examples(ROWS)
    loose = render(examples, byte_bpe)
    tight = render(examples, byte_bpe, RenderConfig(max_response_tokens=3, on_too_long="drop"))
    assert loose.ids == tight.ids == examples.ids
    assert (loose.counts(), tight.counts()) == ({"ok": 6}, {"too_long": 6})


def test_ids_do_not_depend_on_other_rows_or_their_order(byte_bpe: Any) -> None:
    """A shuffled, shorter file gives the remaining rows the same ids and the same tokens."""
    all_rows = render(load_examples(ROWS), byte_bpe)
    some = render(load_examples([ROWS[4], ROWS[0], ROWS[2]]), byte_bpe)
    by_id = {row.id: row for row in all_rows}
    assert all(by_id[row.id] == row for row in some)


def test_two_tokenizers_give_joinable_tables(byte_bpe: Any, sentence_piece: Any) -> None:
    """The ids of two renderings are the same set, so their scores can be joined."""
    examples = load_examples(ROWS)
    one, other = render(examples, byte_bpe), render(examples, sentence_piece)
    assert one.ids == other.ids
    assert one.source_ids == other.source_ids == [row["id"] for row in ROWS]
    assert one.fingerprint != other.fingerprint


def test_batches_of_rows_are_rendered_alike(byte_bpe: Any) -> None:
    """1,200 rows over several tokeniser calls and files' batches are as if rendered alone."""
    examples = load_examples(
        [{"prompt": f"hello {n}", "completion": "sure " * (1 + n % 7)} for n in range(1_200)]
    )
    rows = render(examples, byte_bpe)
    for n in (0, 499, 500, 999, 1_000, 1_199):
        alone = render(examples.restrict([examples.ids[n]]), byte_bpe)[0]
        assert rows[n] == alone
    assert np.array_equal(rows.lengths, [len(row.input_ids) for row in rows])


@pytest.mark.parametrize("policy", ["truncate", "drop", "error"])
def test_cutting_limits_change_the_policy_alone(policy: Any) -> None:
    """Lengths, template and what is trained on stay."""
    given = RenderConfig(max_prompt_tokens=7, max_response_tokens=3, on_too_long=policy,
                         train_on="all", chat_template="plain")  # fmt: skip
    found = given.cutting().model_dump()
    assert found == {**given.model_dump(), "on_too_long": "truncate"}
