"""The conversation of a chat on disk: native, whole, beside those of others."""

from __future__ import annotations

import json
import os

import pytest

from interact_jax.chatting.transcript import ChatLog, Transcript
from interact_jax.data.conversations import read_conversations
from interact_jax.schema import InputError, Message
from tests.runs import read_lines, write_lines

OTHERS = [b'{"id":  "x", "messages": [], "more": 1.50}', b"", '{"messages": ["é"]}'.encode()]


def exchange(n, text="Fine"):
    reply = Message(
        "assistant", text, token_ids=(n, 2), logps=(-0.1234567890123, -2.0), sampling_logps=(-1, 0)
    )
    return Message("user", f"How {n}?"), reply


def test_a_conversation_is_read_as_it_was_sampled(tmp_path):
    transcript = Transcript("Be brief.")
    for n in range(3):
        transcript = transcript.with_exchange(*exchange(n))
    file = tmp_path / "chat.jsonl"
    ChatLog(file).keep(transcript)
    (found,), report = read_conversations(str(file))
    assert found.messages == transcript.read().messages
    assert [m.role for m in found.messages[:3]] == ["system", "user", "assistant"]
    assert found.messages[2] == exchange(0)[1]
    assert not (report.lost or report.mended or report.unused or report.meta)
    assert report.interactions == 2


def test_a_reply_without_text_is_read_as_a_run_reads_it():
    transcript = Transcript().with_exchange(*exchange(0, " "))
    messages = transcript.read(Message("user", "And now?")).messages
    assert [m.content for m in messages] == ["How 0?\n\nAnd now?"]
    with pytest.raises(InputError, match=r"this conversation.*empty"):
        transcript.read(Message("user", "And now?"), repair="stop")


def test_other_lines_of_a_log_stay_as_they_are(tmp_path):
    file = write_lines(tmp_path / "chat.jsonl", OTHERS)
    one, other = Transcript().with_exchange(*exchange(1)), Transcript().with_exchange(*exchange(2))
    first, second = ChatLog(file), ChatLog(file)  # two chats at a time
    first.keep(one)
    second.keep(other)
    first.keep(one.with_exchange(*exchange(3)))
    lines = file.read_bytes().split(b"\n")
    assert lines[:2] == [OTHERS[0], OTHERS[2]] and lines[4:] == [b""]
    kept = [json.loads(line) for line in lines[2:4]]
    assert [(line["id"], len(line["messages"])) for line in kept] == [(one.id, 4), (other.id, 2)]
    first.keep(one.without_last())
    assert [line["id"] for line in read_lines(file)[2:]] == [other.id]
    assert os.listdir(tmp_path) == ["chat.jsonl"]


def test_a_conversation_that_never_was_makes_no_file(tmp_path):
    log = ChatLog(tmp_path / "chat.jsonl")
    log.keep(Transcript("Be brief."))
    assert not log.path.exists()


@pytest.mark.parametrize(
    "content, said",
    [
        (b'{"id": "a", "messages": []}\n{"a": 1}\n', "line 2 is no conversation, expected"),
        (b"hello\n", "line 1 is no conversation"),
        (b"\xff\n", "line 1 is no conversation"),
    ],
)
def test_a_file_of_something_else_is_not_touched(content, said, tmp_path):
    file = tmp_path / "chat.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said):
        ChatLog(file)
    assert file.read_bytes() == content


def test_only_a_file_can_be_written_anew(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("-", "/dev/stdout", tmp_path / "pipe", tmp_path / "chat.jsonl.gz", os.devnull):
        with pytest.raises(InputError, match=r"--log .*takes an uncompressed file"):
            ChatLog(path)
    with pytest.raises(InputError, match="there is no directory"):
        ChatLog(tmp_path / "absent" / "chat.jsonl")
