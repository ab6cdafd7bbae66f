"""Conversations in which a turn has two replies, and goes on with one of them.

In the native format the other reply stands in the message, which says whether itself is preferred:

    {"role": "assistant", "content": "Hi!", "alternative": "Good day.", "preferred": false}

ALOE's conversations have both replies in every round. Each becomes a pair at its turn, whose
history is what was really said before it: the replies with which the conversation went on.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from interact_jax.data.dialogues import Outcome, build_conversation, system_beside
from interact_jax.data.mending import Dialogue, mend
from interact_jax.data.messages import Fault, faults_at, find_name, require, require_object
from interact_jax.data.preferences import compare, reply_under
from interact_jax.data.records import NOTHING_WRONG, Loss, Note, Record
from interact_jax.data.turns import Turn, find_role, read_turn
from interact_jax.schema import Message, Preference

ALTERNATIVE, PREFERRED = "alternative", "preferred"
HINT = "hint"  # what one of the two replies was told of the user: for people to read, not learned
KEYS = (ALTERNATIVE, PREFERRED, HINT)
_MEANING = "true if the message itself is preferred, false if its alternative is"
_ASKS = ("user", "tool")  # roles of a message that a reply may follow


class _Turns:
    """The turns of a dialogue that are messages by themselves, by their place in the input."""

    def __init__(self, record: Record, dialogue: Dialogue):
        self._record, self._messages = record, dialogue.messages
        bounds = zip(dialogue.places, dialogue.ends, strict=True)
        self._at = {place: at for at, (place, end) in enumerate(bounds) if place == end}

    def pair(self, place: int, other: Message, itself: bool, label: str) -> Preference | Loss:
        """The reply at a place of the input and the other one, which would have answered the same;
        `itself` says whether the former is preferred."""
        at = self._at.get(place)
        if at is None:
            return self._no_pair(f"{label} was left out, or joined to another message")
        if not (reply := self._messages[at]).content.strip():
            return self._no_pair(f"{label} has no text")
        if at == 0 or self._messages[at - 1].role not in _ASKS:
            return self._no_pair(f"no message of the user stands before {label}")
        return compare(self._record, at, *((reply, other) if itself else (other, reply)))

    def _no_pair(self, detail: str) -> Loss:
        return Loss("no pair", self._record.where, detail, NOTHING_WRONG)


# ------------------------------------------------------------------------------ the native format


def native_alternatives(
    record: Record, dialogue: Dialogue
) -> tuple[tuple[Preference, ...] | None, list[Loss | Note]]:
    """The pairs of messages that have an alternative, None where none has; and the losses: pairs
    whose texts are equal, or whose message was left out. Raises Fault."""
    turns = _Turns(record, dialogue)
    found: list[Preference | Loss] = []
    notes: list[Loss | Note] = []
    for place, value in enumerate(record.value["messages"]):
        label = f"messages[{place}]"
        if not isinstance(value, dict):
            continue  # told already
        if value.get(ALTERNATIVE) is not None:
            with faults_at(label):
                other, itself = _alternative_of(value)
            found.append(turns.pair(place, other, itself, label))
        elif value.get(PREFERRED) is not None:
            reason = f"field {PREFERRED!r} not used"
            notes.append(Note(reason, record.where, f"{label} has no {ALTERNATIVE!r}", unused=True))
    notes += [one for one in found if isinstance(one, Loss)]
    pairs = tuple(one for one in found if isinstance(one, Preference))
    return pairs if found else None, notes


def _alternative_of(turn: Mapping[str, Any]) -> tuple[Message, bool]:
    """The alternative of a message, and whether the message itself is preferred. Raises Fault."""
    if find_role(turn) not in ("assistant", ""):  # an unknown role is told already
        detail = f"{ALTERNATIVE!r} stands in a message of {find_role(turn)!r}"
        raise Fault("bad alternative", f"{detail}, expected only in those of 'assistant'")
    itself = turn.get(PREFERRED)
    if itself is None:
        detail = f"no {PREFERRED!r} beside {ALTERNATIVE!r}"
        raise Fault("missing key", f"{detail}, expected {_MEANING}")
    if not isinstance(itself, bool):
        detail = f"{PREFERRED!r} is {reprlib.repr(itself)}"
        raise Fault("wrong type", f"{detail}, expected {_MEANING}")
    return reply_under(turn, ALTERNATIVE), itself


# ------------------------------------------------------------------------------------------- ALOE

ROUNDS, REPLIES, CONTINUES = "conversations", "assistant", "chosen"
BETTER, WORSE = SIDES = ("preferred", "rejected")
_PERSONA = ("profile", "personality")


@dataclasses.dataclass(frozen=True)
class _Round:
    """A message of the user, the reply with which it goes on, and the other; `itself` says whether
    the former is preferred."""

    user: Turn
    reply: Turn
    other: Message
    itself: bool
    notes: list[Note]


def is_aloe(record: Mapping[str, Any]) -> bool:
    """Whether a record has rounds, in each of which two replies follow the user's message."""
    rounds = record.get(ROUNDS)
    first = rounds[0] if isinstance(rounds, list) and rounds else None
    return isinstance(first, dict) and isinstance(first.get(REPLIES), dict)


def aloe(record: Record, repair: str) -> Iterator[Outcome]:
    """`conversations.jsonl` of ALOE (ShujinWu-0814/ALOE, written by its data_generation.py).

        {"profile": "...", "personality": "...", "conversations": [round, round, ...]}

        {"user": "Hi", "assistant": {"preferred": "Hi!", "rejected": "Good day."},
         "chosen": "rejected", "inferred_profile": "...", "inferred_personality": "..."}

    `chosen` names the reply with which the conversation goes on. Profile and personality, there
    lines of JSON, become meta data. A reply may be a list of texts: the first is read. Other texts
    of a list, and what had been inferred of the persona, are counted as not used.
    """
    rounds = []
    for number, value in enumerate(require(record.value, ROUNDS, list)):
        label = f"{ROUNDS}[{number}]"
        with faults_at(label):
            rounds.append(_read_round(value, 2 * number, label, record.where))
    said = [turn for one in rounds for turn in (one.user, one.reply)]
    dialogue = mend([*system_beside(record.value), *said], record.where, repair)
    turns = _Turns(record, dialogue)
    found = [turns.pair(one.reply.index, one.other, one.itself, one.reply.label) for one in rounds]
    for one in rounds:
        yield from one.notes
    yield from (one for one in found if isinstance(one, Loss))
    pairs = tuple(one for one in found if isinstance(one, Preference))
    persona = {key: _unquote(record.value[key]) for key in _PERSONA if key in record.value}
    record = dataclasses.replace(record, value={**record.value, **persona})
    identity, user = find_name(record.value, "id"), find_name(record.value, "user")
    yield from build_conversation(record, dialogue, identity, user, pairs, (ROUNDS,))


def _read_round(value: Any, index: int, label: str, where: str) -> _Round:
    """A round whose first message is at `index` of the dialogue. Raises Fault."""
    said = require_object(value)
    replies, continues = require(said, REPLIES, dict), require(said, CONTINUES, str)
    if continues not in SIDES:
        expected = " or ".join(map(repr, SIDES))
        detail = f"{CONTINUES!r} is {reprlib.repr(continues)}, expected {expected}"
        raise Fault("unknown reply", detail)
    user = {"role": "user", "content": require(said, "user", str)}
    place = f"{label}.{REPLIES}"
    with faults_at(REPLIES):
        texts = {side: _texts(replies, side) for side in SIDES}
        reply = {"role": "assistant", "content": texts[continues][0]}
        turn = read_turn(reply, index + 1, f"{place}.{continues}")
        other = WORSE if continues == BETTER else BETTER
        message = reply_under({other: texts[other][0]}, other)
    notes = [*_unused(said, ("user", REPLIES, CONTINUES), label, where)]
    notes += _unused(replies, SIDES, place, where)
    if further := sum(len(several) - 1 for several in texts.values()):
        reason = "reply not used: one of several in a list"
        notes.append(Note(reason, where, place, unused=True, times=further))
    first = read_turn(user, index, f"{label}.user")
    return _Round(first, turn, message, continues == BETTER, notes)


def _texts(replies: Mapping[str, Any], side: str) -> list[str]:
    """The text under a key, or the texts if it is a list. Raises Fault."""
    value = require(replies, side, str, list)
    texts = [value] if isinstance(value, str) else value
    if not texts or not all(isinstance(text, str) for text in texts):
        detail = f"{side!r} is {reprlib.repr(value)}, expected a string or a list of strings"
        raise Fault("wrong type", detail)
    return texts


def _unused(
    value: Mapping[str, Any], used: Collection[str], label: str, where: str
) -> Iterator[Note]:
    for key, content in value.items():
        if key not in used and content not in (None, "", [], {}):
            yield Note(f"field {reprlib.repr(key)} not used", where, label, unused=True)


def _unquote(line: Any) -> Any:
    """The text of a line that is a JSON string; anything else as it is."""
    try:
        text = json.loads(line)
    except (TypeError, ValueError, RecursionError):
        text = None
    return text if isinstance(text, str) else line
