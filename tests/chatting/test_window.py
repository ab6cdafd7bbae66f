"""What of a conversation is sent."""

from __future__ import annotations

import itertools

import pytest

from interact_jax.chatting.window import window_of
from interact_jax.data.chat import ChatFormat
from interact_jax.data.thinking import CLOSED, ON, PLAIN
from interact_jax.schema import InputError, Message
from tests.tiny import tiny_tokenizer

SYSTEM = Message("system", "Be polite.")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def talk(turns):
    texts = (f"What is the capital of land {n}?" for n in range(2 * turns - 1))
    return [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]


def test_all_of_it_while_there_is_room(chat):
    messages = [SYSTEM, *talk(4)]
    ids = chat.prompt(messages)
    window = window_of(messages, chat, len(ids) + 8, 8, PLAIN)
    assert (window.ids, window.left_out) == (ids, 0)
    assert window_of(messages, chat, len(ids) + 7, 8, PLAIN).left_out > 0
    # A reply that may be longer than the context allows claims a quarter of it.
    assert window_of(messages, chat, len(ids) * 2, 10**6, PLAIN).left_out == 0


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["", "system"])
def test_then_the_oldest_turns_are_left_out_until_half_of_the_context_is_free(chat, system):
    context, left_out, moved = len(chat.prompt([*system, *talk(6)])), 0, []
    for turns in range(1, 20):
        messages = talk(turns)
        window = window_of([*system, *messages], chat, context, 8, PLAIN, left_out)
        assert window.ids == chat.prompt([*system, *messages[window.left_out :]])
        assert messages[window.left_out].role == "user"
        if window.left_out > left_out:
            moved.append(turns)
            assert len(window.ids) <= context // 2
            one_more = [*system, *messages[window.left_out - 2 :]]
            assert len(chat.prompt(one_more)) > context // 2
        left_out = window.left_out
    assert moved[0] == 6 and all(b - a > 1 for a, b in itertools.pairwise(moved))


def test_a_message_that_leaves_no_room_is_refused(chat):
    messages = [*talk(2)[:-1], Message("user", "long " * 100)]
    needed = len(chat.prompt(messages[-1:]))
    window = window_of(messages, chat, needed + 1, 100, PLAIN)
    assert (len(window.ids), window.left_out) == (needed, 2)
    with pytest.raises(InputError, match=rf"takes {needed} tokens .* context of {needed}"):
        window_of(messages, chat, needed, 100, PLAIN)


@pytest.mark.parametrize(
    "template, thinking, kind",
    [
        ("reasons", "auto", PLAIN),
        ("reasons", "keep", ON),
        ("reasons", "strip", CLOSED),
        ("reasons", "off", CLOSED),
        ("chatml", "auto", PLAIN),
    ],
)
def test_prompts_treat_reasoning_as_the_setting_says(template, thinking, kind, tmp_path):
    chat = ChatFormat.load(tiny_tokenizer(tmp_path, template), thinking=thinking)
    assert chat.prompt_kind == kind


def test_reasoning_that_the_template_has_no_room_for_is_refused(tmp_path):
    tiny_tokenizer(tmp_path)
    template = tmp_path / "chat_template.jinja"
    closed = "{% if add_generation_prompt %}<think>\n\n</think>\n\n{% endif %}"
    template.write_text(template.read_text() + closed)
    chat = ChatFormat.load(tmp_path, thinking="keep")
    with pytest.raises(InputError, match=r"data\.thinking=keep: the chat template leaves no room"):
        _ = chat.prompt_kind
