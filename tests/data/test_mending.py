"""Real chats: one broken turn costs the interactions that contain it, and nothing else."""

import json
import random

import pytest

from interact_jax.data.conversations import read_conversations
from interact_jax.schema import Conversation, InputError
from tests.logs import good, native, write

Said = tuple[tuple[str, str], ...]


def read(tmp_path, *lines: bytes | dict, **options: str):
    """What comes of these lines, the conversation of the first of them before the others."""
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path = write(tmp_path, "chats.jsonl", b"\n".join(data))
    return read_conversations(path, **options)


def told(conversation: Conversation) -> dict[str, Said]:
    """By id: x, y and o in one, as (letter of the role, text)."""
    return {
        i.id: tuple((m.role[0], m.content) for m in (*i.x, i.y, i.o))
        for i in conversation.interactions()
    }


def turns(letters: str) -> list[tuple]:
    """ "ua" -> a user's message "0" and the assistant's "1"; upper case letters say nothing."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool", "n": "narrator"}
    said = (("" if letter.isupper() else str(n)) for n, letter in enumerate(letters))
    return [(roles[letter.lower()], text) for letter, text in zip(letters, said, strict=True)]


def chain(letters: str) -> Said:
    """ "u0 a1" -> (("u", "0"), ("a", "1")); "+" joins by an empty line."""
    return tuple((part[0], part[1:].replace("+", "\n\n")) for part in letters.split())


# turns -> what is told with repair=join, what was mended, what is left of it with repair=drop
MENDED = {
    "auaauau": (
        {"bad_2": "a0 u1 a2+3 u4", "bad_5": "a0 u1 a2+3 u4 a5 u6"},
        {"two messages of one role in a row": 1},
        {"bad_5": "u4 a5 u6"},
    ),
    "uauuau": (
        {"bad_1": "u0 a1 u2+3", "bad_4": "u0 a1 u2+3 a4 u5"},
        {"two messages of one role in a row": 1},
        {},
    ),
    "uuuauau": (
        {"bad_3": "u0+1+2 a3 u4", "bad_5": "u0+1+2 a3 u4 a5 u6"},
        {"two messages of one role in a row": 2},
        {"bad_5": "u4 a5 u6"},
    ),
    "uauAuau": (
        {"bad_1": "u0 a1 u2+4", "bad_5": "u0 a1 u2+4 a5 u6"},
        {"empty message of the assistant": 1},
        {"bad_1": "u0 a1 u2", "bad_5": "u4 a5 u6"},
    ),
    "uauAAuau": (
        {"bad_1": "u0 a1 u2+5", "bad_6": "u0 a1 u2+5 a6 u7"},
        {"empty message of the assistant": 2},
        {"bad_1": "u0 a1 u2", "bad_6": "u5 a6 u7"},
    ),
    "uauaUauau": (
        {"bad_1": "u0 a1 u2", "bad_7": "u6 a7 u8"},
        {"empty message of the user": 1},
        {"bad_1": "u0 a1 u2", "bad_7": "u6 a7 u8"},
    ),
    "suausauau": (
        {"bad_2": "s0 u1 a2 u3", "bad_7": "s0 u4+6 a7 u8"},
        {"misplaced system message": 1},
        {"bad_2": "s0 u1 a2 u3", "bad_7": "s0 u6 a7 u8"},
    ),
    "uausuau": (
        {"bad_1": "u0 a1 u2", "bad_5": "u3+4 a5 u6"},
        {"misplaced system message": 1},
        {"bad_1": "u0 a1 u2", "bad_5": "u4 a5 u6"},
    ),
    "ssuau": (
        {"bad_3": "s0+1 u2 a3 u4"},
        {"two messages of one role in a row": 1},
        {},
    ),
    "uauUau": (
        {"bad_1": "u0 a1 u2", "bad_4": "u0 a1 u2 a4 u5"},
        {"empty message of the user": 1},
        {},
    ),
    "uaUuauau": (
        {"bad_1": "u0 a1 u3", "bad_4": "u0 a1 u3 a4 u5", "bad_6": "u0 a1 u3 a4 u5 a6 u7"},
        {"empty message of the user": 1},
        {"bad_6": "u5 a6 u7"},
    ),
    "uaUAauau": (
        {"bad_6": "u5 a6 u7"},
        {"empty message of the user": 1, "empty message of the assistant": 1},
        {"bad_6": "u5 a6 u7"},
    ),
    "Suau": ({"bad_2": "u1 a2 u3"}, {"empty message of the system": 1}, {}),
    "uaua": ({"bad_1": "u0 a1 u2"}, {}, {"bad_1": "u0 a1 u2"}),
    "utauau": (
        {"bad_2": "u0 t1 a2 u3", "bad_4": "u0 t1 a2 u3 a4 u5"},
        {},
        {"bad_2": "u0 t1 a2 u3", "bad_4": "u0 t1 a2 u3 a4 u5"},
    ),
}


@pytest.mark.parametrize("letters", MENDED)
def test_what_is_not_clean_is_mended(tmp_path, letters):
    """Joined or left out; ids have the index of y in the input; each mending is counted."""
    joined, mended, dropped = MENDED[letters]
    line = native(*turns(letters))
    conversations, report = read(tmp_path, good("a"), line, good("c"))
    assert [c.id for c in conversations] == ["a", "bad", "c"]
    assert told(conversations[1]) == {name: chain(said) for name, said in joined.items()}
    assert report.mended == mended and not report.lost
    assert report.interactions == 2 + len(joined)
    for reason in mended:
        assert report.examples[reason].startswith(f"{tmp_path}/chats.jsonl:2: messages[")
        assert any(reason in line and "chats.jsonl:2" in line for line in report.lines())

    conversations, report = read(tmp_path, good("a"), line, good("c"), repair="drop")
    found = {k: v for c in conversations[1:-1] for k, v in told(c).items()}
    assert found == {name: chain(said) for name, said in dropped.items()}
    assert [c.id for c in (conversations[0], conversations[-1])] == ["a", "c"]
    if mended:
        with pytest.raises(InputError) as caught:
            read(tmp_path, good("a"), line, repair="stop")
        reason, place = next(iter(mended)), f"{tmp_path}/chats.jsonl:2: "
        assert str(caught.value).startswith(f"{place}{reason}: messages[")
        assert "data.repair=join" in str(caught.value)
        conversations, report = read(
            tmp_path, good("a"), line, good("c"), repair="stop", on_error="skip"
        )
        assert [c.id for c in conversations] == ["a", "c"] and report.lost == {reason: 1}


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_told_that_was_not_said(tmp_path, seed):
    """Whatever the turns: of every interaction, y is what stands at its index, x and o are what
    stands before and behind it, without a gap that is not empty, late or joined."""
    draw = random.Random(seed)
    letters = "".join(draw.choices("uuuaaaAUstn", k=24)) + "uau"
    try:
        conversations, _ = read(tmp_path, good("z"), native(*turns(letters)), on_error="skip")
    except InputError:
        pytest.fail("a good line is there")
    for conversation in conversations[1:]:
        for name, said in told(conversation).items():
            at = int(name.removeprefix("bad_"))
            numbers = [int(n) for _, text in said for n in text.split("\n\n")]
            system = numbers[:1] if said[0][0] == "s" else []
            rest = numbers[len(system) :]
            assert at in rest and letters[at] == "a"
            assert [r for r, _ in said[-2:]] == ["a", "u"] and said[-3][0] in "ut"
            assert int(said[-2][1].split("\n\n")[0]) == at
            first = next(n for n in rest if letters[n] != "s")  # a late one may stand before it
            left_out = set(range(first, rest[-1])) - set(rest)
            assert all(letters[n] in "AUS" for n in left_out), (letters, said)
            runs = "".join(letters[n] for n in range(first, at + 1) if letters[n] not in "AS")
            assert "aUa" not in runs.replace("UU", "U") and not runs.startswith("Ua")


# a turn that cannot be read, under which reason it is counted
UNREADABLE = {
    "role": ({"role": "narrator", "content": "x"}, "unknown role"),
    "number": ({"role": "assistant", "content": 4}, "wrong type"),
    "text": ("x", "not an object"),
    "no content": ({"role": "assistant"}, "missing key"),
    "half": ({"role": "assistant", "content": "\ud83d"}, "broken character"),
    "logps": ({"role": "assistant", "content": "x", "logps": [1]}, "bad token_ids or logps"),
    "call": ({"from": "function_call", "value": "now"}, "wrong type"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_turn_that_cannot_be_read_costs_what_contains_it(tmp_path, case):
    """It is an error; skipped, the interactions before and behind it come through."""
    turn, reason = UNREADABLE[case]
    record = json.loads(native(*turns("uauauauau")))
    record["messages"][3] = turn
    with pytest.raises(InputError, match=rf"chats\.jsonl:2: {reason}: messages\[3\]: .*skip"):
        read(tmp_path, good("a"), record)
    conversations, report = read(tmp_path, good("a"), record, good("c"), on_error="skip")
    assert [c.id for c in conversations] == ["a", "bad", "c"]
    expected = {"bad_1": "u0 a1 u2", "bad_5": "u4 a5 u6", "bad_7": "u4 a5 u6 a7 u8"}
    assert told(conversations[1]) == {name: chain(said) for name, said in expected.items()}
    assert report.lost == {reason: 1} and report.interactions == 5


def test_what_the_user_went_on_with_goes_with_what_cannot_be_read(tmp_path):
    """Two messages in a row are one turn: half of it is not what the reply answers to."""
    record = json.loads(native(*turns("uauuauau")))
    record["messages"][2]["content"] = 4
    conversations, report = read(tmp_path, record, good("c"), on_error="skip")
    assert told(conversations[0]) == {"bad_6": chain("u5 a6 u7")}
    record = json.loads(native(*turns("uauuauau")))
    record["messages"][3]["content"] = 4
    assert told(read(tmp_path, record, on_error="skip")[0][0]) == {"bad_6": chain("u5 a6 u7")}
    assert report.lost == {"wrong type": 1} and not report.mended


def test_a_system_message_that_cannot_be_read_costs_the_conversation(tmp_path):
    """Every reply was given under it."""
    record = json.loads(native(*turns("suau")))
    record["messages"][0]["content"] = 4
    conversations, report = read(tmp_path, record, good("c"), on_error="skip")
    assert [c.id for c in conversations] == ["c"] and report.lost == {"wrong type": 1}


def test_what_a_sampler_produced_is_not_that_of_joined_replies(tmp_path):
    """It would be the ids of a part. The lighter weight counts."""
    line = native(
        ("user", "Q"),
        ("assistant", "A", {"token_ids": [5, 6], "weight": 0.5}),
        ("assistant", "B", {"weight": 2}),
        ("user", "P"),
    )
    [conversation], report = read(tmp_path, line)
    reply = conversation.messages[1]
    assert (reply.content, reply.token_ids, reply.weight) == ("A\n\nB", None, 0.5)
    assert report.mended["token_ids of joined messages not used"] == 1


# ------------------------------------------------------------------------------ pairs of replies


def test_a_pair_stands_where_the_input_has_it(tmp_path):
    """Its index is that of the input, its history what is left; in joined turns there is none."""
    line = native(
        *turns("uauuauAu"),
        preferences=[{"index": at, "chosen": "A", "rejected": "B"} for at in (1, 3, 4, 6)],
    )
    [conversation], report = read(tmp_path, line)
    found = [
        (conversation.name_at(p.index), [m.content for m in conversation.history(p.index)])
        for p in conversation.preferences
    ]
    assert found == [("bad_1", ["0"]), ("bad_4", ["0", "1", "2\n\n3"])]
    assert report.lost == {"no pair": 2}


def test_pairs_are_mended_as_dialogues_are(tmp_path):
    said = [{"role": role, "content": text} for role, text in turns("uauu")]
    record = {"system": "S", "prompt": said, "chosen": "A", "rejected": "B"}
    path = write(tmp_path, "a.jsonl", [record])

    def count(conversation: Conversation) -> int:
        return len(conversation.preferences or ())

    [conversation], report = read_conversations(path, count_units=count)
    assert [m.content for m in conversation.messages] == ["S", "0", "1", "2\n\n3", "A"]
    [pair] = conversation.preferences
    assert conversation.name_at(pair.index) == "a.1_4"
    assert report.mended == {"two messages of one role in a row": 1}
    with pytest.raises(InputError, match=r"a\.jsonl:1: two messages of one role"):
        read_conversations(path, count_units=count, repair="stop")
