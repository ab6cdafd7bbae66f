"""One turn of a dialogue, whatever its format calls role and text, read into a Message.

    {"role": "user", "content": "Hi"}                                    OpenAI, WildChat, our own
    {"from": "Human", "value": "Hi"}                                     ShareGPT
    {"role": "prompter", "text": "Hi"}                                   OpenAssistant
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]}        content in parts

Parts that are not text and fields that nothing here uses are not faults: they are reported with the
turn.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from interact_jax.data.messages import (
    Fault,
    as_float,
    check_text,
    faults_at,
    keys_of,
    require,
    require_object,
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
"""What formats call the roles, in lower case -> our name."""
CALLS = ("function_call", "tool_call")  # the assistant, with a call as JSON in place of text
ROLE_KEYS, TEXT_KEYS = ("role", "from", "speaker"), ("content", "value", "text", "response")
PLAIN = {keys: (a, b) for a in ROLE_KEYS for b in TEXT_KEYS for keys in ((a, b), (b, a))}
"""The keys of turns that have a role, a text, and nothing else."""
TEXT_PARTS = ("text", "input_text", "output_text")
FIELDS = ("tool_calls", "tool_call_id", "reasoning_content")
"""What chat templates may show besides the text; for tool messages `name` as well."""
REASONING = "reasoning"  # what some servers call reasoning_content
SAMPLED = ("token_ids", "logps", "sampling_logps")
USED = {*FIELDS, *SAMPLED, "function_call", "weight"}


@dataclasses.dataclass(frozen=True)
class Turn:
    """A turn of the input at `index` (-1: outside of the list of turns); its message, or what is
    wrong with it."""

    index: int
    label: str
    role: str = ""  # "" where not even the role can be read
    message: Message | None = None
    fault: Fault | None = None
    left_out: tuple[str, ...] = ()  # kinds of parts that are not text
    unused: tuple[str, ...] = ()  # names of fields


def read_turns(values: Iterable[Any], label: str, known: Collection[str] = ()) -> Iterator[Turn]:
    """The turns of a dialogue; `label` is their key in the record, `known` are fields that the
    format uses. Raises Fault for a system message that cannot be read: every reply depends on it.
    """
    for index, value in enumerate(values):
        place = f"{label}[{index}]"
        message = _plain_message(value)
        if message is not None:
            yield Turn(index, place, message.role, message)
            continue
        try:
            with faults_at(place):
                yield read_turn(value, index, place, known)
        except Fault as fault:
            role = find_role(value) if isinstance(value, dict) else ""
            if role == "system":
                raise
            yield Turn(index, place, role, fault=fault)


def _plain_message(value: Any) -> Message | None:
    """What `read_turn` makes of most turns, sooner: those with a role under a usual name, a text,
    and nothing else. None for all others."""
    keys = PLAIN.get(tuple(value)) if type(value) is dict and len(value) == 2 else None
    if keys is None:
        return None
    name, text = value[keys[0]], value[keys[1]]
    if type(name) is not str or type(text) is not str or name in CALLS:
        return None
    role = ROLE_OF.get(name)
    # Half of a surrogate pair is a fault.
    return Message(role, text) if role and (text.isascii() or _is_text(text)) else None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_turn(value: Any, index: int, label: str, known: Collection[str] = ()) -> Turn:
    """One turn, which may be empty. Raises Fault."""
    turn = require_object(value)
    role_key, text_key = _present_key(turn, ROLE_KEYS), _present_key(turn, TEXT_KEYS)
    role, fields = role_of(turn, role_key), _fields(turn)
    used = REASONING if fields.get("reasoning_content") == turn.get(REASONING) else ""
    text, left_out = "", list[str]()
    if text_key in turn or not fields.get("tool_calls"):
        text = _text(turn, text_key, left_out)
    check_text(text, f"{text_key!r} of {turn[role_key]!r}")
    if _normalise(turn[role_key]) in CALLS:
        fields["tool_calls"], text = [_with_arguments({"function": _parse_call(text)})], ""
    if role == "tool" and isinstance(turn.get("name"), str):
        fields["name"] = turn["name"]
    _check_fields(fields)
    used_keys = {role_key, text_key, *USED, *known, *fields, used}
    unused = tuple(
        key for key in turn if key not in used_keys and turn[key] not in (None, "", [], {})
    )
    sampled = _sampler_output(turn, role)
    message = Message(role, text, weight=_weight(turn, role), fields=fields, **sampled)
    return Turn(index, label, role, message, left_out=tuple(left_out), unused=unused)


def read_reply(value: Any, label: str, known: Collection[str] = ()) -> Message:
    """A message that must be a reply of the assistant with text. Raises Fault."""
    with faults_at(label):
        message = read_turn(value, 0, label, known).message
        assert message is not None
        if message.role != "assistant":
            role = value[_present_key(value, ROLE_KEYS)]
            raise Fault("unknown role", f"'role' is {role!r}, expected assistant")
        if not message.content.strip():
            key = _present_key(value, TEXT_KEYS)
            raise Fault("empty message", f"{key!r} is {reprlib.repr(value[key])}")
        return message


def role_of(turn: Mapping[str, Any], key: str = "role") -> str:
    """Our name of the role under a key. Raises Fault."""
    name = require(turn, key, str)
    if (role := ROLE_OF.get(_normalise(name))) is None:
        expected = "; ".join(f"{role} ({names})" for role, names in NAMES.items())
        raise Fault("unknown role", f"{key!r} is {reprlib.repr(name)}, expected {expected}")
    return role


def _normalise(name: str) -> str:
    return name.strip().casefold()


def find_role(turn: Mapping[str, Any]) -> str:
    """Our name of a turn's role, "" where it cannot be read."""
    try:
        return role_of(turn, _present_key(turn, ROLE_KEYS))
    except Fault:
        return ""


def _present_key(turn: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The first of the keys that has a value, else the first that is present at all."""
    present = [key for key in keys if key in turn]
    return next((key for key in present if turn[key] is not None), (*present, keys[0])[0])


def _text(turn: Mapping[str, Any], key: str, left_out: list[str]) -> str:
    """The text under a key, or the joined text of its parts; "" where it is null."""
    if key not in turn:
        raise Fault("missing key", f"no {' or '.join(map(repr, TEXT_KEYS))}, found {keys_of(turn)}")
    value = turn[key]
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        value = value["parts"]
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise Fault("wrong type", f"{key!r} is {reprlib.repr(value)}, expected a string or parts")
    texts = []
    for part in value:
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
        if isinstance(text, dict):  # as in OpenAI's Assistants API
            text = text.get("value")
        return text if isinstance(text, str) else None
    return None


def _kind_of(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return reprlib.repr(kind if isinstance(kind, str) else type(part).__name__)


def _fields(turn: Mapping[str, Any]) -> dict[str, Any]:
    """What templates may show of a turn; calls in OpenAI's older form are converted."""
    fields = {key: turn[key] for key in FIELDS if turn.get(key)}
    if isinstance(turn.get(REASONING), str) and turn[REASONING]:
        fields.setdefault("reasoning_content", turn[REASONING])
    calls = fields.get("tool_calls", [])
    if isinstance(turn.get("function_call"), dict) and not calls:
        calls = [{"type": "function", "function": turn["function_call"]}]
    if calls:
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            detail = f"'tool_calls' is {reprlib.repr(calls)}, expected a list of objects"
            raise Fault("wrong type", detail)
        fields["tool_calls"] = [_with_arguments(call) for call in calls]
    return fields


def _parse_call(text: str) -> dict[str, Any]:
    """The name and the arguments in the text of a call."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        call = None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        detail = f"{reprlib.repr(text)} is not a call, expected JSON with a name and arguments"
        raise Fault("wrong type", detail)
    return call


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments as an object, which chat templates want; OpenAI has them as JSON
    text."""
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
    """Raise Fault for fields that cannot be passed to a template."""
    if not fields:
        return
    try:
        text = json.dumps(fields, ensure_ascii=False)
    except (ValueError, RecursionError):
        detail = "it is nested too deeply"
        raise Fault("wrong type", f"{', '.join(map(repr, fields))}: {detail}") from None
    check_text(text, " or ".join(map(repr, fields)))


def _weight(turn: Mapping[str, Any], role: str) -> float:
    """The weight of an assistant message; 1 by default."""
    weight = turn.get("weight")
    if weight is None or role != "assistant":
        return 1.0
    value = as_float(weight)
    if value is None or value < 0:
        detail = f"weight is {reprlib.repr(weight)}, expected a float32 number from 0 on"
        raise Fault("bad weight", detail)
    return value


def _sampler_output(turn: Mapping[str, Any], role: str) -> dict[str, tuple[Any, ...]]:
    """The sampled `token_ids` of a reply and, of the same length, `logps` and `sampling_logps`."""
    given = {key: turn[key] for key in SAMPLED if turn.get(key) is not None}
    if not given:
        return {}
    reason = "bad token_ids or logps"
    if role != "assistant":
        raise Fault(reason, f"only an assistant's message has them, this is {role!r}")
    ids = given.pop("token_ids", None)
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise Fault(reason, f"token_ids is {reprlib.repr(ids)}, expected whole numbers")
    output: dict[str, tuple[Any, ...]] = {"token_ids": tuple(ids)}
    for key, logps in given.items():
        values = [as_float(logp) for logp in logps] if isinstance(logps, list) else [None]
        if None in values:
            raise Fault(
                reason, f"{key} is {reprlib.repr(logps)}, expected numbers that float32 holds"
            )
        if len(ids) != len(values):
            raise Fault(reason, f"{len(ids)} token_ids but {len(values)} {key}, expected as many")
        output[key] = tuple(values)
    return output
