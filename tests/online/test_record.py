"""The record of an online run: whole steps, or none of them."""

import errno
import json

import pytest

from interact_jax.data.native import from_record, to_record
from interact_jax.online import record as record_module
from interact_jax.online.record import Beginning, Record, Step
from interact_jax.online.rollout import Played
from interact_jax.schema import Conversation, InputError, Message

REPLY = Message(
    "assistant",
    'Grüße 🙂\n\u2028"',
    token_ids=(5, 0, 7),
    logps=(-0.1, -2.7182817459106445, -1e-30),
    sampling_logps=(-0.1, -2.5, 0.0),
)


BEGINNING = Beginning({"prompts": "pocket"}, {"full": [1, 2, 3, 4, 5]})


def talk(name, reply=REPLY):
    messages = (Message("system", ""), Message("user", "Hi"), reply, Message("user", "Shorter"))
    return Conversation(name, messages, user="emoji | one")


def step(number):
    played = [Played(talk(f"p{number}_{n}"), ("complaint",), number - 1) for n in range(number)]
    return Step(number, played, 10 * number, {"replies cut": number})


@pytest.fixture
def folder(tmp_path):
    """A record of three steps."""
    record = Record(tmp_path)
    for number in (1, 2, 3):
        record.append(step(number), BEGINNING)
    return tmp_path


def without_source(read):
    played = [
        Played(
            Conversation(p.conversation.id, p.conversation.messages, p.conversation.user),
            p.kinds,
            p.version,
        )
        for p in read.played
    ]
    return Step(read.number, played, read.drawn, read.counts)


def test_what_is_written_is_read(folder):
    record = Record(folder)
    assert len(record) == 3
    assert [without_source(record.step(n)) for n in (3, 1, 2)] == [step(n) for n in (3, 1, 2)]
    assert record.step(4) is None
    assert record.beginning == BEGINNING and Record(folder / "elsewhere").beginning is None


def test_conversations_come_back_to_the_last_bit():
    conversation = talk("a")
    line = json.dumps(to_record(conversation))
    read = from_record(json.loads(line), "here")
    assert (read.id, read.messages, read.user) == ("a", conversation.messages, "emoji | one")


@pytest.mark.parametrize(
    "record",
    [
        [],
        {"id": "a"},
        {"id": "a", "messages": [{"role": "user"}]},
        {"id": "a", "messages": [{"role": "someone", "content": ""}]},
        {"id": "a", "messages": [{"role": "assistant", "content": "", "token_ids": ["x"]}]},
        {
            "id": "a",
            "messages": [{"role": "assistant", "content": "", "token_ids": [1], "logps": []}],
        },
    ],
)
def test_what_is_no_conversation_is_refused(record):
    with pytest.raises(InputError, match="file:3: not a conversation"):
        from_record(record, "file:3")


@pytest.mark.parametrize("lost", [1, 20, "line"])
def test_a_step_that_was_being_written_is_written_again(lost, folder):
    """Killed while its line was written, or before: its conversations are cut off."""
    steps, whole = folder / "rollouts.jsonl", (folder / "conversations.jsonl").read_bytes()
    text = steps.read_bytes()
    lost = len(text.splitlines(keepends=True)[-1]) if lost == "line" else lost
    steps.write_bytes(text[:-lost])
    record = Record(folder)
    assert len(record) == 2
    assert (folder / "conversations.jsonl").read_bytes() == whole, "nothing is changed by reading"
    record.append(step(3), BEGINNING)
    assert steps.read_bytes() == text
    assert (folder / "conversations.jsonl").read_bytes() == whole


@pytest.mark.parametrize("file", ["conversations.jsonl", "rollouts.jsonl"])
def test_a_step_that_could_not_be_written_is_written_again(file, folder, monkeypatch):
    """A disk that is full half-way through one of the files."""
    record, append = Record(folder), record_module._append

    def half(place, text):
        append(place, text[: len(text) // 2] if place.name == file else text)
        if place.name == file and text:
            raise OSError(errno.ENOSPC, "No space left on device", str(place))

    with monkeypatch.context() as patch:
        patch.setattr(record_module, "_append", half)
        with pytest.raises(OSError, match="No space left"):
            record.append(step(4), BEGINNING)
    for number in (4, 5):
        record.append(step(number), BEGINNING)
    assert [without_source(Record(folder).step(n)) for n in (4, 5)] == [step(4), step(5)]


def test_half_a_conversation_is_cut_off(folder):
    place = folder / "conversations.jsonl"
    whole = place.read_bytes()
    place.write_bytes(whole + b'{"id": "p4')
    record = Record(folder)
    record.append(step(4), BEGINNING)
    assert place.read_bytes().startswith(whole + b'{"id": "p4_0"')
    assert [p.conversation.id for p in Record(folder).step(4).played][:1] == ["p4_0"]


def test_a_changed_conversation_is_noticed(folder):
    place = folder / "conversations.jsonl"
    place.write_bytes(place.read_bytes().replace(b"Shorter", b"Longer!", 1))
    record = Record(folder)
    assert record.step(2) is not None, "others are as they were"
    with pytest.raises(InputError, match="of step 1 are not what the run wrote"):
        record.step(1)


def swapped(old, new):
    return lambda lines: [b"".join(lines).replace(old, new, 1)]


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda lines: [lines[0], b"{}\n", lines[2]], "rollouts.jsonl:2: not what the run wrote"),
        (lambda lines: [lines[0], lines[2]], "rollouts.jsonl:2: not what"),
        (lambda lines: [b"x" + lines[0], *lines[1:]], "rollouts.jsonl:1: not what"),
        (swapped(b'"drawn": 20', b'"drawn": 21'), "rollouts.jsonl:2: not what"),
        (swapped(b"[1, 2, 3, 4, 5]", b"[1, 2, 3, 4, 7]"), "rollouts.jsonl:1: not what"),
        (swapped(b"own_digest", b"own_dibest"), "rollouts.jsonl:1: not what"),
    ],
)
def test_damaged_lines_of_steps_are_named(change, says, folder):
    steps = folder / "rollouts.jsonl"
    steps.write_bytes(b"".join(change(steps.read_bytes().splitlines(keepends=True))))
    with pytest.raises(InputError, match=says):
        Record(folder)


def test_lines_without_a_digest_are_those_of_an_earlier_version(folder):
    steps = folder / "rollouts.jsonl"
    lines = [json.loads(line) for line in steps.read_text().splitlines()]
    for line in lines:
        del line["own_digest"]
    steps.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert without_source(Record(folder).step(3)) == step(3)


def test_conversations_that_are_gone_are_missed(folder):
    place = folder / "conversations.jsonl"
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(InputError, match="but step 3 ended at"):
        Record(folder)
    place.unlink()
    with pytest.raises(InputError, match="0 bytes, but step 1"):
        Record(folder)


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    place = tmp_path / "conversations.jsonl"
    place.write_text("mine\n")
    with pytest.raises(InputError, match="not this run's"):
        Record(tmp_path)
    assert place.read_text() == "mine\n"
