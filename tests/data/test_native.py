"""The native format keeps everything of a conversation."""

import json

import pytest

from interact_jax.data.array_records import decode, encode
from interact_jax.data.conversations import ReadReport, read_outcomes
from interact_jax.data.native import from_record, to_record
from interact_jax.schema import Conversation, InputError, Message, Preference

pytestmark = pytest.mark.one_device

CALL = {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
SAMPLED = Message(
    "assistant", "Hm", token_ids=(1, 2), logps=(-0.1, -1e-300), sampling_logps=(0.5, -2.25)
)
CONVERSATIONS = [
    Conversation("a", ()),
    Conversation("a", (Message("user", "Hi"), Message("assistant", "")), "me", "log.jsonl:3"),
    Conversation(
        "ä~2",
        (
            Message("system", "S"),
            Message("user", "Ünï 🙂"),
            Message("assistant", "", fields=CALL),
            Message("tool", "4", fields={"tool_call_id": "1", "name": "f", "more": [None]}),
            Message("assistant", "It", weight=0.25, fields={"reasoning_content": "well"}),
            Message("user", "No"),
            SAMPLED,
            Message("user", "lone \ud800 half"),
        ),
        user="u\udfff",
        source="odd \udc80.jsonl:1",
        meta={"language": "de", "n": 1, "x": 0.1, "tools": "none", "meta": 3, "owned": [1]},
        owned=frozenset({2, 4}),
        preferences=(Preference(6, SAMPLED, Message("assistant", "Other", weight=2.0)),),
        places=(0, 1, 2, 3, 5, -1, 7, 8),
        restarts=frozenset({5}),
        tools=({"type": "function", "function": {"name": "f"}},),
    ),
    Conversation(
        "b", (Message("assistant", "x", token_ids=()),), owned=frozenset(), preferences=()
    ),
]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda c: c.id)
def test_conversations_come_back(conversation):
    record = json.loads(json.dumps(to_record(conversation)))
    assert from_record(record, conversation.source) == conversation
    assert decode(encode(conversation, 3), "shard, record 0") == conversation
    assert encode(conversation, 3) == encode(conversation, 3)


def test_readers_know_what_is_written(tmp_path):
    """Tools, calls, weights and pairs stand where the readers expect them."""
    whole = Conversation(
        "c",
        (
            Message("user", "2+2?"),
            Message("assistant", "", fields=CALL),
            Message("tool", "4", fields={"name": "f"}),
            Message("assistant", "4", weight=0.5),
            Message("user", "Thanks"),
        ),
        user="me",
        preferences=(Preference(5, Message("assistant", "a"), Message("assistant", "b")),),
        tools=({"type": "function", "function": {"name": "f"}},),
    )
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps(to_record(whole)))
    (read,) = (
        item
        for item in read_outcomes(str(file), "log", ReadReport())
        if isinstance(item, Conversation)
    )
    assert (read.messages, read.tools, read.preferences) == (
        whole.messages,
        whole.tools,
        whole.preferences,
    )


@pytest.mark.parametrize("data", [b"", b"\xff\xff", b"\n\x00"])
def test_other_examples_are_refused(data):
    with pytest.raises(InputError, match="shard, record 7: not an example"):
        decode(data, "shard, record 7")
