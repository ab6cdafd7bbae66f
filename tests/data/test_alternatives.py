"""A turn with two replies, of which the conversation goes on with one: in the native format, and in
that of ALOE's released conversations."""

from __future__ import annotations

import json

import pytest

from interact_jax.data.conversations import read_conversations
from interact_jax.data.formats import recognise
from interact_jax.data.native import from_record, to_record
from interact_jax.data.recipes import RECIPES
from interact_jax.schema import InputError, Message
from tests.logs import ROUNDS, aloe_record, chat, good, write

PAIRS = RECIPES["pairs"]


def read(path: str, on_error: str = "stop", **options):
    counted = {"count_units": PAIRS.count_units, "expected": PAIRS.expected}
    return read_conversations(path, on_error=on_error, **counted, **options)


def pairs_of(conversation) -> list[tuple[int, str, str]]:
    return [(p.index, p.chosen.content, p.rejected.content) for p in conversation.preferences]


def with_alternative(record: dict, index: int, alternative: object, preferred: object) -> dict:
    """The record, changed: its message at `index` has an alternative."""
    record["messages"][index] |= {"alternative": alternative, "preferred": preferred}
    return record


# ------------------------------------------------------------------------------ the native format


def test_either_reply_may_go_on(tmp_path):
    """The message itself is the preferred one, or its alternative is, sampled ids included; the
    conversation is what it would be without."""
    record = chat("c", "Q", "A", "P", "B", "O", "C")
    sampled = {"content": "B2", "token_ids": [5, 6], "logps": [-0.5, -1]}
    with_alternative(record, 1, "A2", True)
    with_alternative(record, 3, sampled, False)
    with_alternative(record, 5, {"role": "assistant", "content": "C2"}, True)
    path = write(tmp_path, "a.jsonl", [record])
    [conversation], report = read(path)
    assert pairs_of(conversation) == [(1, "A", "A2"), (3, "B2", "B"), (5, "C", "C2")]
    first, second, _ = conversation.preferences
    assert first.chosen is conversation.messages[1]
    assert second.chosen == Message("assistant", "B2", (5, 6), (-0.5, -1.0))
    assert second.rejected is conversation.messages[3]
    assert [m.content for m in conversation.messages] == ["Q", "A", "P", "B", "O", "C"]
    assert [i.id for i in conversation.interactions()] == ["c_1", "c_3"]
    assert report.interactions == 3 and not report.lost and not report.unused


def test_what_is_written_is_what_was_read(tmp_path):
    record = with_alternative(chat("c", "Q", "A", "P", "B"), 3, "B2", False)
    [conversation], _ = read(write(tmp_path, "a.jsonl", [record]))
    again = from_record(json.loads(json.dumps(to_record(conversation))), conversation.source)
    assert again == conversation


def test_pairs_beside_the_messages_stay(tmp_path):
    record = with_alternative(chat("c", "Q", "A", "P", "B"), 1, "A2", True)
    record["preferences"] = [{"index": 1, "chosen": "A", "rejected": "A3"}]
    [conversation], report = read(write(tmp_path, "a.jsonl", [record]))
    assert pairs_of(conversation) == [(1, "A", "A3"), (1, "A", "A2")]
    assert [d.unit for d in PAIRS.drafts(conversation)] == ["c_1", "c_1", "c_1.2", "c_1.2"]
    assert report.interactions == 2


def test_equal_texts_prefer_nothing(tmp_path):
    """They are no pair, and no pair is made of the follow-up in its place."""
    same = with_alternative(chat("same", "Q", "A", "P", "B"), 1, "A", True)
    other = with_alternative(chat("other", "Q", "A", "P", "B"), 1, "A2", True)
    [conversation], report = read(write(tmp_path, "a.jsonl", [same, other]))
    assert conversation.id == "other"
    assert report.lost == {"chosen equals rejected": 1, "nothing to learn from": 1}


def test_nulls_are_as_if_they_were_not_there(tmp_path):
    """As tables have them in every row."""
    record = with_alternative(good("a"), 1, None, None)
    record["messages"][0] |= {"alternative": None}
    [conversation], report = read_conversations(write(tmp_path, "a.jsonl", [record]))
    assert conversation.preferences is None and not report.lost and not report.unused


def test_preferred_without_an_alternative_is_counted(tmp_path):
    record = good("a")
    record["messages"][1]["preferred"] = True
    [conversation], report = read_conversations(write(tmp_path, "a.jsonl", [record]))
    assert conversation.preferences is None and not report.lost
    assert report.unused == {"field 'preferred' not used": 1}


MESSAGE = {"role": "assistant", "content": "A", "alternative": "B"}


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (MESSAGE, "missing key", "no 'preferred' beside 'alternative', expected true if"),
        ({**MESSAGE, "preferred": "yes"}, "wrong type", "'preferred' is 'yes', expected true if"),
        ({**MESSAGE, "preferred": 1}, "wrong type", "'preferred' is 1"),
        (
            {"role": "user", "content": "Q", "alternative": "R", "preferred": True},
            "bad alternative",
            "in a message of 'user', expected only in those of 'assistant'",
        ),
        ({**MESSAGE, "alternative": 3, "preferred": True}, "wrong type", "expected a string or an"),
        ({**MESSAGE, "alternative": " ", "preferred": True}, "empty message", "alternative: "),
        (
            {**MESSAGE, "alternative": {"content": "B", "logps": [-1]}, "preferred": True},
            "bad token_ids or logps",
            "alternative: token_ids",
        ),
        (
            {**MESSAGE, "alternative": {"role": "user", "content": "B"}, "preferred": True},
            "unknown role",
            "alternative: 'role' is 'user', expected assistant",
        ),
        ({**MESSAGE, "alternative": "\ud83d", "preferred": True}, "broken character", "half"),
    ],
)
def test_bad_alternative(tmp_path, message, reason, words):
    """Stopping names line and message, and what was expected; skipping counts the record."""
    bad = chat("bad", "Q", "A", "P", "B")
    bad["messages"][2 if message["role"] == "user" else 3] = message
    lines = b"\n".join(json.dumps(record).encode() for record in (good("a"), bad, good("b")))
    path = write(tmp_path, "a.jsonl", lines)
    with pytest.raises(InputError, match=rf"a\.jsonl:2: {reason}: messages\[[23]\]: .*{words}"):
        read_conversations(path)
    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == ["a", "b"] and report.lost == {reason: 1}


def test_what_was_said_there_must_have_come_through(tmp_path):
    """A message that was joined, left out or opens the conversation has no history of which the
    alternative is the other reply; the other turns keep their pairs, at their places."""
    roles = ("assistant", "user", "assistant", "assistant", "user", "assistant", "user")
    texts = ("Welcome", "Q", "A", "A, too", "P", "", "O")
    said = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    record = {"id": "c", "messages": [*said, {"role": "assistant", "content": "C"}]}
    for index in (0, 2, 3, 5, 7):
        with_alternative(record, index, "other", False)
    [conversation], report = read(write(tmp_path, "a.jsonl", [record]))
    assert [m.content for m in conversation.messages] == [
        "Welcome",
        "Q",
        "A\n\nA, too",
        "P\n\nO",
        "C",
    ]
    assert pairs_of(conversation) == [(4, "other", "C")]
    assert conversation.name_at(4) == "c_7"
    assert report.lost == {"no pair": 4}


def test_a_reply_may_answer_what_a_tool_found(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    said = [*chat("c", "Q")["messages"], call, {"role": "tool", "content": "4"}]
    record = {"id": "c", "messages": [*said, {"role": "assistant", "content": "It is 4."}]}
    with_alternative(record, 1, "No idea.", False)
    with_alternative(record, 3, "It is 5.", True)
    [conversation], report = read(write(tmp_path, "a.jsonl", [record]))
    assert pairs_of(conversation) == [(3, "It is 4.", "It is 5.")]
    assert report.examples["no pair"].endswith("messages[1] has no text")


# ------------------------------------------------------------------------------------------- ALOE


@pytest.mark.parametrize("format", ["auto", "aloe"])
def test_released_conversations(tmp_path, format):
    """A pair at every turn, the last one included; history is what was really said."""
    path = write(tmp_path, "conversations.jsonl", [aloe_record()] * 2)
    (conversation, _), report = read(path, format=format)
    assert conversation.id == "conversations.1" and conversation.source == f"{path}:1"
    assert conversation.meta == {"profile": 'She says "hm".', "personality": "Terse; kind."}
    assert pairs_of(conversation) == [
        (2 * n - 1, f"Better {n}.", f"Worse {n}.") for n in range(1, ROUNDS + 1)
    ]
    said = [
        (f"Question {n}?", f"{'Worse' if n % 3 == 0 else 'Better'} {n}.")
        for n in range(1, ROUNDS + 1)
    ]
    assert [m.content for m in conversation.messages] == [text for both in said for text in both]
    for draft in RECIPES["chosen"].drafts(conversation):
        assert draft.y.content.startswith("Better")
        assert list(draft.x) == list(conversation.messages[: len(draft.x)])
    assert report.interactions == 2 * ROUNDS and not report.lost
    assert report.unused == {
        "field 'inferred_profile' not used": 2 * ROUNDS,
        "field 'inferred_personality' not used": 2 * ROUNDS,
    }


def test_of_a_list_of_replies_the_first_is_read(tmp_path):
    record = aloe_record()
    first = record["conversations"][0]
    first["assistant"] = {"preferred": ["Good."], "rejected": ["Bad.", "Worse.", "Worst."]}
    [conversation], report = read(write(tmp_path, "a.jsonl", [record]))
    assert pairs_of(conversation)[0] == (1, "Good.", "Bad.")
    assert conversation.messages[1].content == "Good."
    reason = "reply not used: one of several in a list"
    assert report.unused[reason] == 2
    assert report.examples[reason].endswith("a.jsonl:1: conversations[0].assistant")


def test_a_persona_that_is_no_json_is_kept_as_it_is(tmp_path):
    """The file of profiles has a line with two texts."""
    record = aloe_record(profile='"One.""Two."\n', personality="Plain", id="k", user="u")
    [conversation], _ = read(write(tmp_path, "a.jsonl", [record]))
    assert conversation.meta == {"profile": '"One.""Two."\n', "personality": "Plain"}
    assert (conversation.id, conversation.user) == ("k", "u")


def test_a_user_who_only_acted_said_nothing(tmp_path):
    """ALOE's program removes what stands between asterisks: the round is left out, counted, and
    history goes on after it."""
    record = aloe_record()
    record["conversations"][4]["user"] = ""
    [conversation], report = read(write(tmp_path, "a.jsonl", [record]))
    assert len(pairs_of(conversation)) == ROUNDS - 1 and conversation.restarts == {8}
    assert report.lost == {"no pair": 1}
    assert report.examples["no pair"].endswith(
        "conversations[4].assistant.preferred was left out, or joined to another message"
    )
    assert report.mended == {"empty message of the user": 1}


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"user": None}, "wrong type", "'user' is None, expected a string"),
        ({"assistant": "Hi"}, "wrong type", "'assistant' is 'Hi', expected an object"),
        ({"assistant": {"preferred": "A"}}, "missing key", "assistant: no 'rejected', found 'pref"),
        (
            {"assistant": {"preferred": [], "rejected": "B"}},
            "wrong type",
            r"assistant: 'preferred' is \[\], expected a string or a list of strings",
        ),
        (
            {"assistant": {"preferred": "A", "rejected": ["B", 1]}},
            "wrong type",
            "assistant: 'rejected' is .* expected a string or a list of strings",
        ),
        (
            {"assistant": {"preferred": "A", "rejected": ""}},
            "empty message",
            "assistant: rejected: 'content'",
        ),
        ({"chosen": "both"}, "unknown reply", "'both', expected 'preferred' or 'rejected'"),
        ({"chosen": ["preferred"]}, "wrong type", "expected a string"),
    ],
)
def test_bad_round(tmp_path, change, reason, words):
    bad = aloe_record()
    bad["conversations"][6] |= change
    path = write(tmp_path, "a.jsonl", [aloe_record(), bad, aloe_record()])
    with pytest.raises(InputError, match=rf"a\.jsonl:2: {reason}: conversations\[6\]: .*{words}"):
        read(path)
    conversations, report = read(path, on_error="skip")
    assert [c.id for c in conversations] == ["a.1", "a.3"] and report.lost == {reason: 1}


@pytest.mark.parametrize("key", ["user", "assistant", "chosen"])
def test_a_round_without_a_key(tmp_path, key):
    bad = aloe_record()
    del bad["conversations"][3][key]
    path = write(tmp_path, "a.jsonl", [aloe_record(), bad])
    with pytest.raises(
        InputError, match=rf"a\.jsonl:2: missing key: conversations\[3\]: no {key!r}"
    ):
        read(path)
    assert read(path, on_error="skip")[1].lost == {"missing key": 1}


def test_a_round_that_is_no_object(tmp_path):
    path = write(tmp_path, "a.jsonl", [aloe_record(), {"conversations": ["Hi"]}])
    with pytest.raises(InputError, match=r"a\.jsonl:2: not an object: conversations\[0\]: .*'Hi'"):
        read(path)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (aloe_record(), "aloe"),
        ({"conversations": [{"user": "Q", "assistant": {}}]}, "aloe"),
        ({"conversations": [{"user": "Q", "assistant": "A"}]}, "sharegpt"),
        ({"conversations": [{"from": "gpt", "value": "A"}], "chosen": {}}, "wildfeedback"),
        ({"conversations": []}, "sharegpt"),
        ({"conversations": None}, "sharegpt"),
    ],
)
def test_known_by_its_rounds(record, name):
    assert recognise(record) == name


def test_both_formats_say_the_same(tmp_path):
    """The same conversation in both formats: the same messages and pairs."""
    record = aloe_record()
    native = {"id": "conversations.1", "messages": []}
    for one in record["conversations"]:
        itself = one["chosen"] == "preferred"
        other = "rejected" if itself else "preferred"
        native["messages"] += [
            {"role": "user", "content": one["user"]},
            {
                "role": "assistant",
                "content": one["assistant"][one["chosen"]],
                "alternative": one["assistant"][other],
                "preferred": itself,
            },
        ]
    [ours], _ = read(write(tmp_path, "native.jsonl", [native]))
    [theirs], _ = read(write(tmp_path, "conversations.jsonl", [record]))
    assert (ours.messages, ours.preferences) == (theirs.messages, theirs.preferences)
