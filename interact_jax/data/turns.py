"""One turn of a dialogue, whatever its format calls role and text, to a Message.

    {"role": "user", "content": "Hi"}                                    OpenAI, WildChat, our own
    {"from": "Human", "value": "Hi"}                                     ShareGPT
    {"role": "prompter", "text": "Hi"}                                   OpenAssistant
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]}        content in parts

What is no fault of a turn but keeps it from being read as it stands goes along: parts that are no
text, fields that nothing here uses.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from interact_jax.data.messages import (
    Fault,
    an_object,
    keys_of,
    need,
    number,
    whole_text,
    within,
)
from interact_jax.schema import Message

NAMES = {
    "system": "system, developer, system_prompt",
    "user": "user, human, prompter, person, customer",
    "assistant": "assistant, gpt, ai, model, bot, chatbot, chatgpt, bing, bard, claude, llm, "
    "function_call, tool_call",
    "tool": "tool, function, observation, function_response, tool_response, ipython",
}
ROLE_OF = {name: role for role, names in NAMES.items() for name in names.split(", ")}
"""What formats call the roles, in small letters, and what we do."""
CALLS = ("function_call", "tool_call")  # the assistant, with a call as JSON in place of words
ROLE_KEYS, TEXT_KEYS = ("role", "from", "speaker"), ("content", "value", "text", "response")
TEXT_PARTS = ("text", "input_text", "output_text")
FIELDS = ("tool_calls", "tool_call_id", "reasoning_content")
"""What chat templates may show beside the text; for tools' messages `name` too."""
REASONING = "reasoning"  # what some servers call reasoning_content
SAMPLED = ("token_ids", "logps")
TOLD = {*FIELDS, *SAMPLED, "function_call", "weight"}


@dataclasses.dataclass(frozen=True)
class Turn:
    """A turn of the input at `index`, -1 where it stands beside the others; its message, or what is
    wrong with it."""

    index: int
    label: str
    role: str = ""  # "" where not even that can be read
    message: Message | None = None
    fault: Fault | None = None
    left_out: tuple[str, ...] = ()  # kinds of parts that are no text
    unused: tuple[str, ...] = ()  # names of fields


def read_turns(values: Iterable[Any], label: str, known: Collection[str] = ()) -> Iterator[Turn]:
    """The turns of a dialogue; `label` is what the record calls them, `known` are fields that its
    format uses. Raises Fault for a system message that cannot be read: every reply depends on it.
    """
    for index, value in enumerate(values):
        place = f"{label}[{index}]"
        try:
            with within(place):
                yield read_turn(value, index, place, known)
        except Fault as fault:
            role = _role_or_none(value) if isinstance(value, dict) else ""
            if role == "system":
                raise
            yield Turn(index, place, role, fault=fault)


def read_turn(value: Any, index: int, label: str, known: Collection[str] = ()) -> Turn:
    """One turn, which may be empty. Raises Fault."""
    turn = an_object(value)
    role_key, text_key = _present(turn, ROLE_KEYS), _present(turn, TEXT_KEYS)
    role, fields = role_of(turn, role_key), _fields(turn)
    told = REASONING if fields.get("reasoning_content") == turn.get(REASONING) else ""
    text, left_out = "", list[str]()
    if text_key in turn or not fields.get("tool_calls"):
        text = _text(turn, text_key, left_out)
    whole_text(text, f"{text_key!r} of {turn[role_key]!r}")
    if _folded(turn[role_key]) in CALLS:
        fields["tool_calls"], text = [_with_arguments({"function": _called(text)})], ""
    if role == "tool" and isinstance(turn.get("name"), str):
        fields["name"] = turn["name"]
    _check_fields(fields)
    read = {role_key, text_key, *TOLD, *known, *fields, told}
    unused = tuple(key for key in turn if key not in read and turn[key] not in (None, "", [], {}))
    message = Message(role, text, *_sampled(turn, role), _weight(turn, role), fields)
    return Turn(index, label, role, message, left_out=tuple(left_out), unused=unused)


def read_reply(value: Any, label: str, known: Collection[str] = ()) -> Message:
    """What has to be a reply of the assistant, in words. Raises Fault."""
    with within(label):
        message = read_turn(value, 0, label, known).message
        assert message is not None
        if message.role != "assistant":
            found = value[_present(value, ROLE_KEYS)]
            raise Fault("unknown role", f"'role' is {found!r}, expected assistant")
        if not message.content.strip():
            key = _present(value, TEXT_KEYS)
            raise Fault("empty message", f"{key!r} is {reprlib.repr(value[key])}")
        return message


def role_of(turn: Mapping[str, Any], key: str = "role") -> str:
    """What we call the role that stands under a key. Raises Fault."""
    name = need(turn, key, str)
    if (role := ROLE_OF.get(_folded(name))) is None:
        expected = "; ".join(f"{role} ({names})" for role, names in NAMES.items())
        raise Fault("unknown role", f"{key!r} is {reprlib.repr(name)}, expected {expected}")
    return role


def _folded(name: str) -> str:
    return name.strip().casefold()


def _role_or_none(turn: Mapping[str, Any]) -> str:
    try:
        return role_of(turn, _present(turn, ROLE_KEYS))
    except Fault:
        return ""


def _present(turn: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The first of the keys that has a value, or is there at all."""
    there = [key for key in keys if key in turn]
    return next((key for key in there if turn[key] is not None), (*there, keys[0])[0])


def _text(turn: Mapping[str, Any], key: str, left_out: list[str]) -> str:
    """The text under a key: as it stands, or put together of parts; "" where it is null."""
    if key not in turn:
        raise Fault("missing key", f"no {' or '.join(map(repr, TEXT_KEYS))}, found {keys_of(turn)}")
    said = turn[key]
    if isinstance(said, dict) and isinstance(said.get("parts"), list):
        said = said["parts"]
    if said is None or isinstance(said, str):
        return said or ""
    if isinstance(said, dict):
        said = [said]
    if not isinstance(said, list):
        raise Fault("wrong type", f"{key!r} is {reprlib.repr(said)}, expected a string or parts")
    texts = []
    for part in said:
        text = _text_of_part(part)
        if text is None:
            left_out.append(_kind_of(part))
        else:
            texts.append(text)
    return "".join(texts)


def _text_of_part(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS:
        text = part.get("text")
        if isinstance(text, dict):  # as OpenAI's Assistants have it
            text = text.get("value")
        return text if isinstance(text, str) else None
    return None


def _kind_of(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return reprlib.repr(kind if isinstance(kind, str) else type(part).__name__)


def _fields(turn: Mapping[str, Any]) -> dict[str, Any]:
    """What templates may show of a turn; a call in OpenAI's older form as they know it."""
    found = {key: turn[key] for key in FIELDS if turn.get(key)}
    if isinstance(turn.get(REASONING), str) and turn[REASONING]:
        found.setdefault("reasoning_content", turn[REASONING])
    calls = found.get("tool_calls", [])
    if isinstance(turn.get("function_call"), dict) and not calls:
        calls = [{"type": "function", "function": turn["function_call"]}]
    if calls:
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            detail = f"'tool_calls' is {reprlib.repr(calls)}, expected a list of objects"
            raise Fault("wrong type", detail)
        found["tool_calls"] = [_with_arguments(call) for call in calls]
    return found


def _called(text: str) -> dict[str, Any]:
    """What the text of a call says: a name and arguments."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        call = None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        detail = f"{reprlib.repr(text)} is no call, expected JSON with a name and arguments"
        raise Fault("wrong type", detail)
    return call


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments as an object, which is how chat templates want them; OpenAI has
    them as JSON in a text."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    if not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _check_fields(fields: Mapping[str, Any]) -> None:
    """Raise Fault for what no template can be told."""
    if not fields:
        return
    try:
        told = json.dumps(fields, ensure_ascii=False)
    except (ValueError, RecursionError):
        detail = "it is nested too deep"
        raise Fault("wrong type", f"{', '.join(map(repr, fields))}: {detail}") from None
    whole_text(told, " or ".join(map(repr, fields)))


def _weight(turn: Mapping[str, Any], role: str) -> float:
    """How much a message of the assistant counts; 1 where nothing is said."""
    weight = turn.get("weight")
    if weight is None or role != "assistant":
        return 1.0
    found = number(weight)
    if found is None or found < 0:
        detail = f"weight is {reprlib.repr(weight)}, expected a float32 number from 0 on"
        raise Fault("bad weight", detail)
    return found


def _sampled(
    turn: Mapping[str, Any], role: str
) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    """What a sampler produced for a reply: `token_ids` and, of the same length, `logps`."""
    ids, logps = (turn.get(key) for key in SAMPLED)
    if ids is None and logps is None:
        return None, None
    reason = "bad token_ids or logps"
    if role != "assistant":
        raise Fault(reason, f"only an assistant's message has them, this is {role!r}")
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise Fault(reason, f"token_ids is {reprlib.repr(ids)}, expected whole numbers")
    if logps is None:
        return tuple(ids), None
    found = [number(logp) for logp in logps] if isinstance(logps, list) else [None]
    if None in found:
        raise Fault(reason, f"logps is {reprlib.repr(logps)}, expected numbers that float32 holds")
    if len(ids) != len(found):
        raise Fault(reason, f"{len(ids)} token_ids but {len(found)} logps, expected as many")
    return tuple(ids), tuple(logp for logp in found if logp is not None)
