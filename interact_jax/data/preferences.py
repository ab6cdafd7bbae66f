"""The formats that pair two replies to the same history, a preferred and a rejected one.

Where the two are the same there is no pair, and in a format that has only pairs no conversation
either: that is a Loss without a remedy, since nothing is wrong with the file.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from interact_jax.data.dialogues import Outcome, build_conversation, read_dialogue
from interact_jax.data.mending import Dialogue, mend
from interact_jax.data.messages import (
    Fault,
    Unclean,
    as_float,
    faults_at,
    find_name,
    require,
    require_object,
)
from interact_jax.data.records import NOTHING_WRONG, Loss, Record
from interact_jax.data.turns import Turn, read_reply, read_turn, read_turns
from interact_jax.schema import Message, Preference

SIDES = ("chosen", "rejected")


def compare(record: Record, index: int, chosen: Message, rejected: Message) -> Preference | Loss:
    """The pair of two replies to the first `index` messages, if their texts differ."""
    if chosen.content != rejected.content:
        return Preference(index, chosen, rejected)
    detail = f"both replies to message {index - 1} are {reprlib.repr(chosen.content)}"
    return Loss("chosen equals rejected", record.where, detail, NOTHING_WRONG)


# ------------------------------------------------------------------ a prompt, and two replies to it


def is_preference(record: Mapping[str, Any]) -> bool:
    """Whether a record looks like TRL's pairs, and like no other format that has `chosen`."""
    if not all(side in record for side in SIDES) or is_hh_rlhf(record):
        return False
    dialogues = {"conversation", "conversations"}
    if not isinstance(record["chosen"], list):  # then `messages` are a dialogue of their own
        dialogues.add("messages")
    return dialogues.isdisjoint(record)


def preference(record: Record, repair: str) -> Iterator[Outcome]:
    """TRL's preference formats (its documentation, "Dataset formats and types").

        {"prompt": "Q", "chosen": "A", "rejected": "B"}
        {"prompt": [messages], "chosen": [reply], "rejected": [reply]}
        {"chosen": [messages], "rejected": [messages]}      the prompt is what both begin with

    HuggingFaceH4/ultrafeedback_binarized mixes them: whole dialogues, and the question again under
    `prompt`. Then the dialogues are used, and a prompt that they do not contain is reported. Its
    `messages` repeat `chosen` and are left out.
    """
    value = record.value
    prompt: Dialogue | None = None
    if value.get("prompt"):
        prompt = _read_side(record, "prompt", "user", repair)
        if not prompt.messages:
            raise Fault("bad prompt", "'prompt' is empty")
    elif any(isinstance(value.get(side), str) for side in SIDES):
        detail = "two texts cannot be split into a prompt and its replies: add a 'prompt'"
        raise Fault("no prompt", f"{detail}, or give lists of messages")
    sides = [_read_side(record, side, "assistant", repair, with_system=False) for side in SIDES]
    if prompt is None or any(side.messages[:1] and _is_dialogue(side) for side in sides):
        sides = [_read_side(record, side, "assistant", repair) for side in SIDES]
        chosen, rejected = (side.messages for side in sides)
        dialogue, history = sides[0], _shared_history(chosen, rejected)
        chosen, rejected = chosen[len(history) :], rejected[len(history) :]
    else:
        dialogue, history = prompt, prompt.messages
        chosen, rejected = (side.messages for side in sides)
    if not history:
        raise Fault("no prompt", "'chosen' and 'rejected' begin with different messages")
    for name, replies in zip(SIDES, (chosen, rejected), strict=True):
        if [message.role for message in replies] != ["assistant"] or not replies[0].content:
            roles = ", ".join(message.role for message in replies) or "no message"
            detail = f"after the prompt, {name!r} has {roles}, expected one assistant message"
            raise Fault("not one reply", detail)
    if history[-1].role != "user":
        detail = f"the prompt ends in a message of {history[-1].role!r}, expected 'user'"
        raise Fault("bad prompt", detail)
    questions = prompt.messages if prompt else ()
    if not {m.content.strip() for m in questions} <= {m.content.strip() for m in history}:
        detail = f"no message before the replies is {reprlib.repr(questions[-1].content)}"
        yield Loss("prompt is not in the dialogue", record.where, detail, NOTHING_WRONG)
    notes = {note: None for side in (dialogue, *sides) for note in side.notes}  # each once
    dialogue = dataclasses.replace(dialogue, notes=list(notes))
    identity, user = find_name(value, "id"), find_name(value, "user")
    yield from _pair(record, dialogue, history, chosen[0], rejected[0], identity, user)


def ultrafeedback(record: Record, repair: str) -> Iterator[Outcome]:
    """openbmb/UltraFeedback: the completion with the highest overall score against the lowest.

    Of equal scores the first counts. Other completions, those without a score, and the instructions
    on style with which each was sampled (`custom_system_prompt`) are left out.
    """
    turn = {"role": "user", "content": require(record.value, "instruction", str)}
    question = mend([read_turn(turn, 0, "instruction")], record.where, "stop")
    completions = require(record.value, "completions", list)
    scores: dict[int, float] = {}
    for index, completion in enumerate(completions):
        with faults_at(f"completions[{index}]"):
            score = require_object(completion).get("overall_score")
            if score is None:
                continue
            if (value := as_float(score)) is None:
                given = f"'overall_score' is {reprlib.repr(score)}"
                raise Fault("wrong type", f"{given}, expected a finite number")
            scores[index] = value
    if len(set(scores.values())) < 2:
        detail = f"the overall scores are {reprlib.repr(list(scores.values()))}"
        detail = f"{detail}, none above another"
        yield Loss("no best completion", record.where, detail, NOTHING_WRONG)
        return
    pair = []
    for index in (max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)):
        turn = {"role": "assistant", **completions[index]}
        pair.append(read_reply(turn, f"completions[{index}]"))
    identity = find_name(record.value, "id")
    yield from _pair(record, question, question.messages, pair[0], pair[1], identity)


def _pair(
    record: Record,
    dialogue: Dialogue,
    history: tuple[Message, ...],
    chosen: Message,
    rejected: Message,
    identity: str,
    user: str = "",
) -> Iterator[Outcome]:
    """The history, with which the dialogue begins, with the preferred reply, and the pair."""
    pair = compare(record, len(history), chosen, rejected)
    if isinstance(pair, Loss):
        yield pair
        return
    places = (*dialogue.places[: len(history)], dialogue.ends[len(history) - 1] + 1)
    compared = dataclasses.replace(dialogue, messages=(*history, chosen), places=places)
    known = ("prompt", "instruction", "completions", "messages", *SIDES)
    yield from build_conversation(record, compared, identity, user, (pair,), known)


def _read_side(
    record: Record, key: str, role: str, repair: str, with_system: bool = True
) -> Dialogue:
    """The messages under a key; a text is one message of `role`. All of them belong to the pair, so
    one that cannot be used costs the pair. `with_system`: with a system prompt beside the turns.
    Raises Fault."""
    value = require(record.value, key, str, list)
    turns = [{"role": role, "content": value}] if isinstance(value, str) else value
    if with_system:
        dialogue = read_dialogue(record, key, repair, turns=turns)
    else:
        dialogue = mend(read_turns(turns, key), record.where, repair)
    if dialogue.losses:
        raise Fault(dialogue.losses[0].reason, dialogue.losses[0].detail)
    if dialogue.restarts:
        raise Unclean("not one dialogue", "; ".join(note.detail for note in dialogue.notes[:3]))
    return dialogue


def _is_dialogue(side: Dialogue) -> bool:
    """Whether it is a whole dialogue and not only a reply."""
    return side.messages[0].role != "assistant"


def _shared_history(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[Message, ...]:
    """What both begin with, without the last message of each, which is a reply."""
    both = zip(_texts(chosen[:-1]), _texts(rejected[:-1]), strict=False)
    return chosen[: sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))]


def _texts(messages: Iterable[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


# ------------------------------------------------------------------------ pairs within a dialogue


def native_preferences(
    record: Record, dialogue: Dialogue
) -> tuple[tuple[Preference, ...] | None, list[Loss]]:
    """The pairs of a native record, at any of its turns, None where it has no such key; and the
    losses: pairs whose texts are equal, or whose history was left out.

    "preferences": [{"index": 3, "chosen": "A", "rejected": {"content": "B", "token_ids": [7]}}]

    `index` is the number of messages before the replies; the last of them is the user's.
    """
    if record.value.get("preferences") is None:
        return None, []
    position = {end: at for at, end in enumerate(dialogue.ends)}
    pairs = []
    for count, pair in enumerate(require(record.value, "preferences", list)):
        with faults_at(f"preferences[{count}]"):
            pairs.append(_native_pair(record, dialogue, position, require_object(pair)))
    losses = [pair for pair in pairs if isinstance(pair, Loss)]
    return tuple(pair for pair in pairs if isinstance(pair, Preference)), losses


def _native_pair(
    record: Record, dialogue: Dialogue, position: Mapping[int, int], pair: Mapping[str, Any]
) -> Preference | Loss:
    index, most = pair.get("index"), len(record.value["messages"])
    if type(index) is not int or not 1 <= index <= most:
        detail = f"'index' is {reprlib.repr(index)}, expected a whole number"
        raise Fault("bad index", f"{detail} from 1 to the number of messages, {most}")
    at = position.get(index - 1)
    if at is None:
        detail = f"messages[{index - 1}] was left out, or joined to the message after it"
        return Loss("no pair", record.where, detail, NOTHING_WRONG)
    if (role := dialogue.messages[at].role) != "user":
        detail = f"'index' is {index}, but messages[{index - 1}] is of {role!r}, expected 'user'"
        raise Fault("bad index", detail)
    chosen, rejected = (reply_under(pair, side) for side in SIDES)
    return compare(record, at + 1, chosen, rejected)


def reply_under(value: Mapping[str, Any], key: str) -> Message:
    """The reply under a key: a text, or an object with its text and what a sampler produced. Raises
    Fault."""
    reply = require(value, key, str, dict)
    fields = {"content": reply} if isinstance(reply, str) else reply
    return read_reply({"role": "assistant", **fields}, key)


# ---------------------------------------------------------------------------------- transcripts


def is_hh_rlhf(record: Mapping[str, Any]) -> bool:
    """Whether a record has transcripts; a text under `chosen` without a `rejected` may be one."""
    if not isinstance(record.get("chosen"), str):
        return False
    is_transcript = any(_parts(record.get(side)) for side in SIDES) or _opening(record)
    return bool(is_transcript) or "rejected" not in record


def hh_rlhf(record: Record, repair: str) -> Iterator[Outcome]:
    """Anthropic/hh-rlhf: two transcripts, `chosen` and `rejected`, that end in different replies.

    "\\n\\nHuman: Hi!\\n\\nAssistant: Hello." -> user "Hi!", assistant "Hello."

    The conversation is `chosen`. It has no pair where the two differ before the last reply, or
    where `rejected` cannot be read. Some copies have the shared beginning under `prompt`.
    """
    dialogue = mend(_transcript(record.value, "chosen"), record.where, repair)
    preferences: tuple[Preference, ...] | None = None
    if record.value.get("rejected") is not None:
        preferences = ()
        pair = _last_replies(record, dialogue.messages)
        if isinstance(pair, Loss):
            yield pair
        else:
            preferences = (pair,)
    yield from build_conversation(record, dialogue, "", "", preferences, ("prompt", *SIDES))


def _last_replies(record: Record, messages: tuple[Message, ...]) -> Preference | Loss:
    try:
        other = mend(_transcript(record.value, "rejected"), record.where, "stop").messages
    except Fault as fault:
        return Loss("no pair", record.where, fault.detail, NOTHING_WRONG)
    index, last = (
        max((i for i, message in enumerate(side) if message.role == "assistant"), default=0)
        for side in (messages, other)
    )
    if not index or messages[:index] != other[:last]:
        detail = "'chosen' and 'rejected' do not share what comes before the last reply"
        return Loss("no pair", record.where, detail, NOTHING_WRONG)
    return compare(record, index, messages[index], other[last])


def _transcript(value: Mapping[str, Any], key: str) -> Iterator[Turn]:
    text = require(value, key, str)
    parts = _parts(text) or _parts(_opening(value) + text)
    if not parts:
        raise Fault("wrong type", f"{key!r} is {reprlib.repr(text)}, not a transcript")
    turns = [
        {"role": role, "content": text.strip()}
        for role, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    return read_turns(turns, key)


def _opening(value: Mapping[str, Any]) -> str:
    """The prompt, if it is a transcript that a reply continues, else ""."""
    prompt = value.get("prompt", "")
    parts = _parts(prompt)
    return prompt if parts and parts[-2] == "Assistant" and not parts[-1].strip() else ""


def _parts(text: Any) -> list[str]:
    """Speaker, text, speaker, text, ... of a transcript; empty for other texts."""
    if not isinstance(text, str):
        return []
    start, *parts = re.split(r"(?:\A|\n\n)(Human|Assistant):", text)
    return [] if start.strip() else parts
