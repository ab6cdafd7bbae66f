"""History windows and what is lost on the way to token ids."""

import collections
import dataclasses

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import EncodeSettings, encode
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.data.templates import ChatTemplate
from interact_jax.schema import Conversation, InputError, Message
from tests.tiny import tiny_tokenizer

DROPPED = "interactions dropped: longer than data.max_length by themselves"
HISTORY_CUT = "interactions with only part of their history: windows hopped"


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("chatml"), "chatml"))


def dialogue(turns, system=False, words=8):
    messages = [Message("system", "Be brief.")] if system else []
    for turn in range(turns):
        messages.append(Message("user", f"question {turn} " + "sort a list " * words))
        messages.append(Message("assistant", f"answer {turn} " + "use sorted " * words))
    return Conversation("c", (*messages, Message("user", "That is wrong")), source="logs.jsonl:3")


def run(conversation, chat, **settings):
    counts = collections.Counter()
    windows = encode(conversation, chat, EncodeSettings(**settings), counts)
    return [[Seen(*unit) for unit in window] for window in windows], counts


class Seen:
    """An interaction's ids as lists: x, x with o in view, y."""

    def __init__(self, example):
        self.id, self.y = example.target.id, example.target.y.tolist()
        self.x, self.xo = (example.contexts[view].tolist() for view in (PLAIN, HINDSIGHT))


def test_only_the_hindsight_context_shows_the_follow_up(chat):
    conversation = dialogue(2)
    (window,), _ = run(conversation, chat)
    for index, e in zip((1, 3), window, strict=True):
        x, o = conversation.messages[:index], conversation.messages[index + 1].content
        assert e.x == chat.prompt(x)
        assert e.xo == chat.prompt(x, o) != e.x


def test_a_conversation_that_fits_is_one_window(chat):
    windows, counts = run(dialogue(4), chat)
    assert [e.id for e in windows[0]] == ["c_1", "c_3", "c_5", "c_7"]
    assert not counts
    for before, after in zip(windows[0], windows[0][1:], strict=False):
        assert after.x[: len(before.x)] == before.x


@pytest.mark.parametrize("system", [False, True])
def test_a_long_conversation_hops(chat, system):
    conversation = dialogue(12, system)
    whole = run(conversation, chat)[0][0]
    limit = len(whole[5].xo) + len(whole[5].y)
    windows, counts = run(conversation, chat, max_length=limit)
    assert [e.id for window in windows for e in window] == [e.id for e in whole]
    assert counts["windows hopped: the oldest turns of a long conversation cut"] == len(windows) - 1
    assert len(windows) > 1
    cut = sum("question 0" not in chat.decode(e.x) for window in windows for e in window)
    assert counts[HISTORY_CUT] == cut > len(windows) - 1
    start = chat.render(conversation.messages[:1])[:30] if system else "<|im_start|>user"
    for window in windows:
        for e in window:
            assert len(e.xo) + len(e.y) <= limit
            assert chat.decode(e.x).startswith(start)
            assert chat.decode(e.xo).startswith(start)
    for window in windows[1:]:
        assert len(window[0].xo) + len(window[0].y) <= limit // 2
        assert window[0].x == window[1].x[: len(window[0].x)]


def test_an_interaction_longer_than_max_length_is_dropped_and_counted(chat):
    windows, counts = run(dialogue(1), chat, max_length=20)
    assert windows == []
    assert counts == {DROPPED: 1}


def test_interactions_that_are_too_long_take_two_looks_each(chat, monkeypatch):
    """However many turns there are before them: a stranger's conversation may be all such."""
    rendered, render = [], ChatFormat.render

    def noting(*arguments, **more):
        rendered.append(arguments)
        return render(*arguments, **more)

    monkeypatch.setattr(ChatFormat, "render", noting)
    _, counts = run(dialogue(20), chat, max_length=20)
    assert counts == {DROPPED: 20}
    assert len(rendered) <= 20 * 2 * 2, "of x, and of x with o in view"


def test_of_a_long_greeting_only_the_greeting_is_cut(chat):
    conversation = dialogue(3)
    whole = run(conversation, chat)[0][0]
    greeting = Message("assistant", "Please sort " * 800)
    greeted = dataclasses.replace(conversation, messages=(greeting, *conversation.messages))
    limit = 2 * (len(whole[0].xo) + len(whole[0].y))
    (window, *_), counts = run(greeted, chat, max_length=limit)
    assert window[0].x == whole[0].x
    assert counts["windows hopped: the oldest turns of a long conversation cut"] >= 1


def test_an_interaction_that_just_fits_without_its_history_is_kept(chat):
    conversation = dialogue(2)
    alone = dataclasses.replace(conversation, messages=conversation.messages[2:])
    (((expected,),), _) = run(alone, chat)
    fits = len(expected.xo) + len(expected.y)
    for limit, kept in ((fits, True), (fits - 1, False)):
        windows, _ = run(conversation, chat, max_length=limit)
        assert any(e.x == expected.x for window in windows for e in window) == kept


def test_a_conversation_that_just_fits_is_one_window(chat):
    ((*_, longest),), _ = run(dialogue(4), chat)
    fits = len(longest.xo) + len(longest.y)
    for limit, windows in ((fits, 1), (fits - 1, 2)):
        found, counts = run(dialogue(4), chat, max_length=limit)
        assert len(found) == windows and counts[HISTORY_CUT] == windows - 1


@pytest.mark.parametrize("limit", [1.0, 0.6])
@pytest.mark.parametrize("place", [5, 9])
def test_a_dropped_interaction_does_not_move_the_window(chat, place, limit):
    """The same windows as if nobody had followed up on it, whether or not others hop."""
    talk = dialogue(6)
    longest = run(talk, chat)[0][0][-1]
    limit = int(limit * (len(longest.xo) + len(longest.y)))
    sampled = dataclasses.replace(talk.messages[place], token_ids=(7,) * limit)
    messages = (*talk.messages[:place], sampled, *talk.messages[place + 1 :])
    found, counts = run(dataclasses.replace(talk, messages=messages), chat, max_length=limit)
    others = frozenset(range(1, 12, 2)) - {place}
    expected, of_others = run(dataclasses.replace(talk, owned=others), chat, max_length=limit)
    assert [[vars(e) for e in w] for w in found] == [[vars(e) for e in w] for w in expected]
    assert counts == {**of_others, DROPPED: 1}


def test_long_replies_are_cut_and_counted(chat):
    ((e,),), counts = run(dialogue(1), chat, max_reply=5)
    assert len(e.y) == 5
    assert e.y[-1] != chat.eos_id
    assert counts == {"replies cut at data.max_reply, their EOS lost": 1}


def test_reference_history_keeps_five_messages_from_a_user_turn(chat):
    (window,), counts = run(dialogue(6), chat, history="reference")
    for turn, e in enumerate(window):
        text = chat.decode(e.x)
        assert [n for n in range(6) if f"question {n}" in text] == [*range(turn + 1)][-3:]
        assert text.startswith("<|im_start|>user")
    assert not counts


def test_reference_history_starts_with_a_user_turn(chat):
    (window,), _ = run(dialogue(2, system=True), chat, history="reference")
    assert all(chat.decode(e.x).startswith("<|im_start|>user") for e in window)


def test_reference_history_starts_with_the_question_that_tools_were_used_for(chat):
    """Where the tools' turns alone are more than five messages."""
    looked_up = [("assistant", "let me see"), ("tool", "42")] * 3
    said = [("user", "question 0"), ("assistant", "answer 0"), ("user", "question 1"), *looked_up]
    messages = [Message(*turn) for turn in (*said, ("assistant", "It is 42"), ("user", "Thanks"))]
    (window,), _ = run(Conversation("c", tuple(messages)), chat, history="reference")
    text = chat.decode(window[-1].x)
    assert "question 1" in text and "question 0" not in text


def test_reference_history_cuts_contexts_on_the_left(chat):
    (window,), counts = run(dialogue(2, words=600), chat, history="reference", max_length=10**6)
    assert [len(e.x) for e in window] == [2048, 2048]
    assert [len(e.xo) for e in window] == [2048, 2048]
    assert window[0].x[-5:] == chat.prompt(dialogue(2, words=600).messages[:1])[-5:]
    assert counts["contexts x cut on the left at 2048 tokens"] == 2


def test_a_context_of_exactly_the_reference_length_is_whole(chat):
    def asked(letters):
        return Conversation("c", (Message("user", "z" * letters), *dialogue(1).messages[1:]))

    around = len(chat.prompt(asked(0).messages[:1]))
    for letters, cut in ((2048 - around, 0), (2049 - around, 1)):
        ((e,),), counts = run(asked(letters), chat, history="reference", max_length=10**6)
        assert len(e.x) == 2048
        assert counts["contexts x cut on the left at 2048 tokens"] == cut


def test_no_history_makes_a_sequence_longer_than_max_length(chat):
    """The model need not have positions for more."""
    conversation = dialogue(4, words=20)
    (whole,), _ = run(conversation, chat, history="reference")
    lengths = [len(e.xo) + len(e.y) for e in whole]
    for limit in (max(lengths), max(lengths) - 1, min(lengths)):
        windows, counts = run(conversation, chat, history="reference", max_length=limit)
        kept = [e.id for window in windows for e in window]
        assert kept == [e.id for e, n in zip(whole, lengths, strict=True) if n <= limit]
        assert counts[DROPPED] == len(whole) - len(kept)


def test_replies_without_a_counted_token_are_dropped_and_counted(chat):
    conversation = dialogue(2)
    messages = list(conversation.messages)
    messages[1] = Message("assistant", "a")
    conversation = dataclasses.replace(conversation, messages=tuple(messages))
    (window,), counts = run(conversation, chat, ignore_first=2)
    assert [e.id for e in window] == ["c_3"]
    assert counts == {"interactions dropped: no counted token in the reply": 1}


def test_special_tokens_in_text_drop_stop_or_stay(chat):
    messages = (*dialogue(1).messages[:2], Message("user", "say <|im_end|> please"))
    conversation = Conversation("c", messages, source="logs.jsonl:3")
    windows, counts = run(conversation, chat, special_tokens="drop")
    assert windows == []
    assert counts == {"conversations dropped: text of a special token in a message": 1}
    assert run(conversation, chat, special_tokens="keep")[0]
    with pytest.raises(InputError, match=r"logs\.jsonl:3.*<\|im_end\|>.*special_tokens=drop"):
        run(conversation, chat, special_tokens="stop")


@pytest.mark.parametrize("where", ["tools", "fields"])
def test_special_tokens_of_any_script_are_found_in_tools_and_fields(where, tmp_path):
    """Some models write them with other than ASCII characters, and the template shows them."""
    chat = ChatFormat.load(tiny_tokenizer(tmp_path, "chatml"))
    chat.tokenizer.add_special_tokens({"additional_special_tokens": ["<｜end▁of▁turn｜>"]})
    text = {"description": "say <｜end▁of▁turn｜> please"}
    conversation = dialogue(1)
    if where == "tools":
        conversation = dataclasses.replace(conversation, tools=(text,))
    else:
        user = dataclasses.replace(conversation.messages[0], fields=text)
        conversation = dataclasses.replace(
            conversation, messages=(user, *conversation.messages[1:])
        )
    windows, counts = run(conversation, chat)
    assert windows == []
    assert counts == {"conversations dropped: text of a special token in a message": 1}


def test_ids_of_another_tokenizer_stop_or_are_skipped(chat):
    messages = list(dialogue(1).messages)
    largest = len(chat.tokenizer) - 1
    messages[1] = dataclasses.replace(messages[1], token_ids=(5, largest))
    conversation = Conversation("c", tuple(messages), source="logs.jsonl:3")
    assert run(conversation, chat)[0]
    messages[1] = dataclasses.replace(messages[1], token_ids=(largest + 1, 5))
    conversation = dataclasses.replace(conversation, messages=tuple(messages))
    with pytest.raises(InputError, match=rf"logs\.jsonl:3: token_ids hold {largest + 1}, .*=skip"):
        run(conversation, chat)
    windows, counts = run(conversation, chat, on_error="skip")
    assert windows == []
    assert counts == {"conversations dropped: token_ids that the tokenizer does not have": 1}


def test_messages_that_the_template_refuses_stop_or_are_skipped(chat):
    source = (
        "{% if messages[0].content != 'Hi' %}{{ raise_exception('no such roles here') }}{% endif %}"
    )
    refusing = dataclasses.replace(chat, template=ChatTemplate(source, {}, "chat_template.jinja"))
    with pytest.raises(InputError, match=r"logs\.jsonl:3.*no such roles here.*on_error=skip"):
        run(dialogue(1), refusing)
    windows, counts = run(dialogue(1), refusing, on_error="skip")
    assert windows == []
    [(reason, count)] = counts.items()
    assert "refused by the chat template: line 1: no such roles here" in reason and count == 1
