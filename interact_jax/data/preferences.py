"""The formats that pair two replies to the same history, a preferred and a rejected one.

Where the two say the same there is no pair, and where a format has pairs and nothing else there is
then no conversation either: a Loss with no remedy, for nothing is wrong with the file.
"""

from __future__ import annotations

import itertools
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from interact_jax.data.messages import (
    NATIVE,
    Fault,
    an_object,
    conversation_of,
    find_name,
    need,
    read_message,
    read_messages,
    read_openai,
    within,
)
from interact_jax.data.records import NOTHING_WRONG, Loss, Record
from interact_jax.schema import Conversation, Message, Preference

HH = {"Human": "user", "Assistant": "assistant"}
REPLY = {"assistant": "assistant"}  # the one role that a reply may have
SIDES = ("chosen", "rejected")


def _compare(record: Record, index: int, chosen: Message, rejected: Message) -> Preference | Loss:
    """The pair of two replies to the first `index` messages, if they differ in what they say."""
    if chosen.content != rejected.content:
        return Preference(index, chosen, rejected)
    detail = f"both replies to message {index - 1} are {reprlib.repr(chosen.content)}"
    return Loss("chosen equals rejected", record.where, detail, NOTHING_WRONG)


# ------------------------------------------------------------------ a prompt, and two replies to it


def is_preference(record: Mapping[str, Any]) -> bool:
    """Whether a record looks as TRL's pairs do, and as no other format that has `chosen`."""
    if not all(side in record for side in SIDES) or is_hh_rlhf(record):
        return False
    dialogues = {"conversation", "conversations"}
    if not isinstance(record["chosen"], list):  # then `messages` are a dialogue of their own
        dialogues.add("messages")
    return dialogues.isdisjoint(record)


def preference(record: Record) -> Iterator[Conversation | Loss]:
    """TRL's preference formats (its documentation, "Dataset formats and types").

        {"prompt": "Q", "chosen": "A", "rejected": "B"}
        {"prompt": [messages], "chosen": [reply], "rejected": [reply]}
        {"chosen": [messages], "rejected": [messages]}      the prompt is how both begin

    HuggingFaceH4/ultrafeedback_binarized mixes them: whole dialogues, and the question again under
    `prompt`. Then the dialogues count, and a prompt that they do not hold is reported. Its
    `messages` are those of `chosen`, and are left out.
    """
    value = record.value
    chosen, rejected = (_said(value, side, "assistant") for side in SIDES)
    prompt: tuple[Message, ...] = ()
    if value.get("prompt") is not None:
        prompt = _said(value, "prompt", "user")
    elif any(isinstance(value[side], str) for side in SIDES):
        detail = "two texts cannot be split into a prompt and its replies: add a 'prompt'"
        raise Fault("no prompt", f"{detail}, or give lists of messages")
    history = prompt
    if not prompt or any(side and side[0].role != "assistant" for side in (chosen, rejected)):
        history = _shared(chosen, rejected)
        chosen, rejected = chosen[len(history) :], rejected[len(history) :]
    if not history:
        raise Fault("no prompt", "'chosen' and 'rejected' begin with different messages")
    for side, replies in zip(SIDES, (chosen, rejected), strict=True):
        if [message.role for message in replies] != ["assistant"]:
            found = ", ".join(message.role for message in replies) or "no message"
            detail = f"behind the prompt {side!r} has {found}, expected one assistant message"
            raise Fault("not one reply", detail)
    if history[-1].role != "user":
        detail = f"the prompt ends in a message of {history[-1].role!r}, expected 'user'"
        raise Fault("bad prompt", detail)
    if not {m.content.strip() for m in prompt} <= {m.content.strip() for m in history}:
        detail = f"no message before the replies is {reprlib.repr(prompt[-1].content)}"
        yield Loss("prompt is not in the dialogue", record.where, detail, NOTHING_WRONG)
    identity, user = find_name(value, "id"), find_name(value, "user")
    yield _pair(record, history, chosen[0], rejected[0], identity, user)


def ultrafeedback(record: Record) -> Iterator[Conversation | Loss]:
    """openbmb/UltraFeedback: the completion with the highest overall score against the lowest.

    Of equals the first counts. Completions in between and those with no score are left out, and so
    are the instructions on style that each was sampled with (`custom_system_prompt`).
    """
    turn = {"role": "user", "instruction": need(record.value, "instruction", str)}
    question = read_message(turn, "role", "instruction", NATIVE)
    completions = need(record.value, "completions", list)
    scores: dict[int, float] = {}
    for index, completion in enumerate(completions):
        with within(f"completions[{index}]"):
            score = an_object(completion).get("overall_score")
            if score is None:
                continue
            if type(score) not in (int, float) or not math.isfinite(score):
                found = f"'overall_score' is {reprlib.repr(score)}"
                raise Fault("wrong type", f"{found}, expected a finite number")
            scores[index] = score
    if len(set(scores.values())) < 2:
        detail = f"the overall scores are {list(scores.values())}, none above another"
        yield Loss("no best completion", record.where, detail, NOTHING_WRONG)
        return
    pair = []
    for index in (max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)):
        with within(f"completions[{index}]"):
            turn = {"role": "assistant", **completions[index]}
            pair.append(read_message(turn, "role", "response", REPLY))
    yield _pair(record, (question,), pair[0], pair[1], find_name(record.value, "id"))


def _pair(
    record: Record,
    history: tuple[Message, ...],
    chosen: Message,
    rejected: Message,
    identity: str,
    user: str = "",
) -> Conversation | Loss:
    """The history with the preferred reply, and the pair."""
    found = _compare(record, len(history), chosen, rejected)
    if isinstance(found, Loss):
        return found
    told = ("prompt", "instruction", *SIDES)
    return conversation_of(record, (*history, chosen), identity, user, (found,), told)


def _said(value: Mapping[str, Any], key: str, role: str) -> tuple[Message, ...]:
    """What stands under a key, as messages: a text is one, of `role`."""
    said = need(value, key, str, list)
    return read_openai([{"role": role, "content": said}] if isinstance(said, str) else said, key)


def _shared(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    """How both begin; at most up to the last message of each, which is a reply."""
    both = zip(_words(chosen[:-1]), _words(rejected[:-1]), strict=False)
    return chosen[: sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))]


def _words(messages: Iterable[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


# ------------------------------------------------------------------------ pairs within a dialogue


def native_preferences(
    record: Record, messages: tuple[Message, ...]
) -> tuple[tuple[Preference, ...] | None, list[Loss]]:
    """The pairs of a native record, at any of its turns, None where it does not speak of any; and
    those that say the same twice.

    "preferences": [{"index": 3, "chosen": "A", "rejected": {"content": "B", "token_ids": [7]}}]

    `index` is the number of messages before the replies, the last of which is the user's.
    """
    if record.value.get("preferences") is None:
        return None, []
    found = []
    for number, pair in enumerate(need(record.value, "preferences", list)):
        with within(f"preferences[{number}]"):
            found.append(_native_pair(record, messages, an_object(pair)))
    losses = [pair for pair in found if isinstance(pair, Loss)]
    return tuple(pair for pair in found if isinstance(pair, Preference)), losses


def _native_pair(
    record: Record, messages: tuple[Message, ...], pair: Mapping[str, Any]
) -> Preference | Loss:
    index = pair.get("index")
    if type(index) is not int or not 1 <= index <= len(messages):
        detail = f"'index' is {reprlib.repr(index)}, expected a whole number"
        raise Fault("bad index", f"{detail} from 1 to the number of messages, {len(messages)}")
    if (role := messages[index - 1].role) != "user":
        detail = f"'index' is {index}, but messages[{index - 1}] is of {role!r}, expected 'user'"
        raise Fault("bad index", detail)
    replies = []
    for side in SIDES:
        said = need(pair, side, str, dict)
        with within(side):
            turn = {"role": "assistant", **({"content": said} if isinstance(said, str) else said)}
            replies.append(read_message(turn, "role", "content", REPLY))
    return _compare(record, index, *replies)


# ---------------------------------------------------------------------------------- transcripts


def is_hh_rlhf(record: Mapping[str, Any]) -> bool:
    """Whether a record has transcripts; a text under `chosen` and nothing to compare may be one."""
    if not isinstance(record.get("chosen"), str):
        return False
    known = any(_parts(record.get(side)) for side in SIDES) or _opening(record)
    return bool(known) or "rejected" not in record


def hh_rlhf(record: Record) -> Iterator[Conversation | Loss]:
    """Anthropic/hh-rlhf: two transcripts, `chosen` and `rejected`, that end in different replies.

    "\\n\\nHuman: Hi!\\n\\nAssistant: Hello." -> user "Hi!", assistant "Hello."

    The conversation is `chosen`. It has no pair where the two differ before the last reply, or
    where `rejected` cannot be read. Some copies have what both begin with under `prompt`.
    """
    messages = _transcript(record.value, "chosen")
    preferences: tuple[Preference, ...] | None = None
    if record.value.get("rejected") is not None:
        preferences = ()
        found = _last_replies(record, messages)
        if isinstance(found, Loss):
            yield found
        else:
            preferences = (found,)
    yield Conversation(record.name, messages, source=record.where, preferences=preferences)


def _last_replies(record: Record, messages: tuple[Message, ...]) -> Preference | Loss:
    try:
        other = _transcript(record.value, "rejected")
    except Fault as fault:
        return Loss("no pair", record.where, fault.detail, NOTHING_WRONG)
    index, last = (
        max((i for i, message in enumerate(said) if message.role == "assistant"), default=0)
        for said in (messages, other)
    )
    if not index or messages[:index] != other[:last]:
        detail = "'chosen' and 'rejected' do not share what comes before the last reply"
        return Loss("no pair", record.where, detail, NOTHING_WRONG)
    return _compare(record, index, messages[index], other[last])


def _transcript(value: Mapping[str, Any], key: str) -> tuple[Message, ...]:
    text = need(value, key, str)
    parts = _parts(text) or _parts(_opening(value) + text)
    if not parts:
        raise Fault("wrong type", f"{key!r} is {reprlib.repr(text)}, no transcript")
    turns = [
        {"role": role, "content": text.strip()}
        for role, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    return read_messages(turns, key, "role", "content", HH)


def _opening(value: Mapping[str, Any]) -> str:
    """The prompt if it is a transcript that a reply goes on with, else ""."""
    prompt = value.get("prompt", "")
    parts = _parts(prompt)
    return prompt if parts and parts[-2] == "Assistant" and not parts[-1].strip() else ""


def _parts(text: Any) -> list[str]:
    """Speaker, text, speaker, text, ... of a transcript; nothing where it is none."""
    if not isinstance(text, str):
        return []
    start, *parts = re.split(r"(?:\A|\n\n)(Human|Assistant):", text)
    return [] if start.strip() else parts
