"""The chat format: what is trained on, what travels with a checkpoint, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from aha.data import arithmetic
from aha.data.chat import (
    CHATML,
    FILE,
    ChatFormat,
    apply_format,
    messages_of,
    prompt_ids,
    require_same,
    training_ids,
)
from aha.errors import CheckpointError, DataError
from aha.models.scratch import make_tokenizer
from aha.recipe.schema import Chat

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(arithmetic.vocabulary(), TAGS)


@pytest.fixture
def chat_format(tokenizer: PreTrainedTokenizerFast) -> ChatFormat:
    return apply_format(Chat(), tokenizer)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ANSWER = "<think> 7 + 5 = 12 </think> <answer> 12 </answer>"


def test_the_loss_is_on_the_assistant_and_its_end(tokenizer: PreTrainedTokenizerFast, chat_format: ChatFormat) -> None:
    ids, labels = training_ids(tokenizer, [turn("user", "Start with 7 . Add 5 ."), turn("assistant", ANSWER)])
    assert len(ids) == len(labels)
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    trained = [token for token, label in zip(ids, labels, strict=True) if label != -100]
    assert tokenizer.convert_ids_to_tokens(trained) == [*ANSWER.split(), "<|im_end|>"]
    first = labels.index(trained[0])
    assert tokenizer.convert_ids_to_tokens(ids[:first][-2:]) == ["<|im_start|>", "assistant"]


def test_every_assistant_turn_is_trained_on(tokenizer: PreTrainedTokenizerFast, chat_format: ChatFormat) -> None:
    talk = [turn("system", "Add"), turn("user", "1"), turn("assistant", "2"), turn("user", "3"), turn("assistant", "4")]
    ids, labels = training_ids(tokenizer, talk)
    trained = [token for token, label in zip(ids, labels, strict=True) if label != -100]
    assert tokenizer.convert_ids_to_tokens(trained) == ["2", "<|im_end|>", "4", "<|im_end|>"]


def test_what_is_sampled_is_what_was_trained(tokenizer: PreTrainedTokenizerFast, chat_format: ChatFormat) -> None:
    """The prompt of a rollout is, token by token, how a training conversation begins."""
    for system in (None, "Add ."):
        asked = messages_of("Start with 7 . Add 5 .", system)
        prompt = prompt_ids(tokenizer, asked)
        ids, labels = training_ids(tokenizer, [*asked, turn("assistant", ANSWER)])
        assert ids[: len(prompt)] == prompt
        assert labels[len(prompt)] != -100 and set(labels[: len(prompt)]) == {-100}


def test_no_assistant(tokenizer: PreTrainedTokenizerFast, chat_format: ChatFormat) -> None:
    with pytest.raises(DataError, match="no assistant token"):
        training_ids(tokenizer, [turn("user", "1 + 1 =")])


def test_saved_and_loaded(tmp_path: Path, chat_format: ChatFormat) -> None:
    chat_format.save(tmp_path)
    assert ChatFormat.load(tmp_path) == chat_format


@pytest.mark.parametrize("content", [None, "{", "{}", '{"think": ["a", "b"], "answer": ["c", "d"], "color": 1}'])
def test_no_chat_format(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"chat_format\.json"):
        ChatFormat.load(tmp_path)


def test_the_same_is_accepted(chat_format: ChatFormat) -> None:
    require_same(chat_format, replace(chat_format), "somewhere")


def test_a_difference_is_shown(chat_format: ChatFormat) -> None:
    other = replace(chat_format, system="Think first.", template=chat_format.template.replace("|im_start|", "|start|"))
    with pytest.raises(CheckpointError) as caught:
        require_same(chat_format, other, "runs/tiny/2-distill/model")
    message = str(caught.value)
    assert "runs/tiny/2-distill/model" in message
    lines = message.splitlines()
    assert any(line.startswith("-") and '"system": null' in line for line in lines)
    assert any(line.startswith("+") and '"system": "Think first."' in line for line in lines)
    assert any(line.startswith("+") and "<|start|>" in line for line in lines)
    assert not any("think" in line and line.startswith(("-", "+")) for line in lines), "only what differs"


def test_think_tags_are_part_of_the_format(chat_format: ChatFormat) -> None:
    with pytest.raises(CheckpointError):
        require_same(chat_format, replace(chat_format, think=("<thought>", "</thought>")), "x")


def test_a_template_must_mark_the_assistant(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    bare = tmp_path / "bare.jinja"
    bare.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(DataError, match="does not mark the assistant's words"):
        apply_format(Chat(template=str(bare)), tokenizer)


def test_keep_needs_markers_too(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="keep does not mark"):
        apply_format(Chat(template="keep"), tokenizer)
    tokenizer.chat_template = CHATML
    assert apply_format(Chat(template="keep"), tokenizer).template == CHATML


@pytest.mark.parametrize("mark", ["{% generation %}", "{%- generation -%}", "{%generation%}", "{%-generation %}"])
def test_ways_to_write_the_marker(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, mark: str) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(CHATML.replace("{% generation %}", mark))
    assert mark in apply_format(Chat(template=str(path)), tokenizer).template


def test_unknown_template_file(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"chat\.template: chatm1 cannot be read .* expected chatml, keep, or the path"):
        apply_format(Chat(template="chatm1"), tokenizer)


def test_chatml_needs_its_tokens() -> None:
    plain = make_tokenizer(arithmetic.vocabulary(), ())
    assert len(plain("<|im_start|>").input_ids) == 1
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = Tokenizer(models.WordLevel({"<unk>": 0, "<": 1, "|": 2, "im": 3}, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Punctuation()
    with pytest.raises(DataError, match="chatml needs <|im_start|> as one token".replace("|", r"\|")):
        apply_format(Chat(), PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="<unk>"))


def test_the_file_is_readable_by_people(tmp_path: Path, chat_format: ChatFormat) -> None:
    chat_format.save(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["end_token"] == "<|im_end|>"
