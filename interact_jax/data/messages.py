"""From what a record says to Messages: every check on a message, and the words for each fault.

Also what readers of several formats share: roles, ids, and the Conversation of a record.
"""

from __future__ import annotations

import contextlib
import math
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from interact_jax.data.records import Record
from interact_jax.schema import ROLES, Conversation, Message, Preference

# What formats call the roles.
NATIVE = {role: role for role in ROLES}
OPENAI = {**NATIVE, "developer": "system"}  # its newer name

_KINDS: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}


class Fault(Exception):
    """A record, or a message of it, cannot be used. `reason` is the kind, to count by."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@contextlib.contextmanager
def within(label: str) -> Iterator[None]:
    """Say where in the record a Fault lies."""
    try:
        yield
    except Fault as fault:
        raise Fault(fault.reason, f"{label}: {fault.detail}") from None


def read_messages(
    turns: list[Any], label: str, role_key: str, text_key: str, roles: Mapping[str, str]
) -> tuple[Message, ...]:
    """The turns of a dialogue, checked; `label` is what the record calls them, for the Fault.

    Every turn is as `read_message` wants it, the roles alternate, and the system speaks only in
    the first one. A dialogue may begin with the assistant, and may have no turn at all.
    """
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        with within(f"{label}[{index}]"):
            message = read_message(turn, role_key, text_key, roles)
            if messages and message.role == messages[-1].role:
                detail = f"{turn[role_key]!r} follows a message of the same role"
                raise Fault("two messages of one role in a row", detail)
            if messages and message.role == "system":
                raise Fault("misplaced system message", "only the first may be the system's")
        messages.append(message)
    return tuple(messages)


def read_openai(turns: list[Any], label: str) -> tuple[Message, ...]:
    """Turns of role and content as OpenAI writes them: content may be a list of texts."""
    return read_messages([_join_parts(turn) for turn in turns], label, "role", "content", OPENAI)


def _join_parts(turn: Any) -> Any:
    """Content as [{"type": "text", "text": ...}, ...] becomes one text; all else stays as it is."""
    parts = turn.get("content") if isinstance(turn, dict) else None
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in parts
    ):
        return turn
    return {**turn, "content": "".join(part["text"] for part in parts)}


def read_message(turn: Any, role_key: str, text_key: str, roles: Mapping[str, str]) -> Message:
    """One turn: a role that `roles` maps to ours, a text, perhaps the ids that a sampler produced.

    The text must not be empty, and stays as it is, white space around it included. Raises Fault.
    """
    turn = an_object(turn)
    name, text = need(turn, role_key, str), need(turn, text_key, str)
    if name not in roles:
        raise Fault("unknown role", f"{role_key!r} is {name!r}, expected {', '.join(roles)}")
    if not text.strip():
        raise Fault("empty message", f"{text_key!r} of {name!r} is {reprlib.repr(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # "\ud83d" alone is legal JSON; no tokenizer takes it
        half = f"{text[error.start]!r} at character {error.start}"
        detail = f"{text_key!r} of {name!r} holds {half}, one half of a surrogate pair"
        raise Fault("broken character", detail) from None
    role = roles[name]
    return Message(role, text, *_sampled(turn, role), _weight(turn, role))


def _weight(turn: Mapping[str, Any], role: str) -> float:
    """How much a message of the assistant counts; 1 where nothing is said."""
    weight = turn.get("weight")
    if weight is None or role != "assistant":
        return 1.0
    if type(weight) not in (int, float) or not 0 <= weight < math.inf:
        raise Fault("bad weight", f"weight is {reprlib.repr(weight)}, expected a number from 0 on")
    return float(weight)


def _sampled(
    turn: Mapping[str, Any], role: str
) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    """What a sampler produced for a reply: `token_ids` and, of the same length, `logps`."""
    ids, logps = turn.get("token_ids"), turn.get("logps")
    if ids is None and logps is None:
        return None, None
    reason = "bad token_ids or logps"
    if role != "assistant":
        raise Fault(reason, f"only an assistant's message has them, this is {role!r}")
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise Fault(reason, f"token_ids is {reprlib.repr(ids)}, expected whole numbers")
    if logps is None:
        return tuple(ids), None
    if not isinstance(logps, list) or not all(
        type(logp) in (int, float) and math.isfinite(logp) for logp in logps
    ):
        raise Fault(reason, f"logps is {reprlib.repr(logps)}, expected finite numbers")
    if len(ids) != len(logps):
        raise Fault(reason, f"{len(ids)} token_ids but {len(logps)} logps, expected as many")
    return tuple(ids), tuple(map(float, logps))


def an_object(value: Any) -> dict[str, Any]:
    """`value`, which must be a JSON object."""
    if not isinstance(value, dict):
        raise Fault("not an object", f"found {reprlib.repr(value)}, expected a JSON object")
    return value


def need(record: Mapping[str, Any], key: str, *kinds: type) -> Any:
    """The value of a key that must be there and be of one of `kinds`: str, list, dict."""
    if key not in record:
        raise Fault("missing key", f"no {key!r}, found {keys_of(record)}")
    if not isinstance(record[key], kinds):
        found, wanted = reprlib.repr(record[key]), " or ".join(_KINDS[kind] for kind in kinds)
        raise Fault("wrong type", f"{key!r} is {found}, expected {wanted}")
    return record[key]


def need_name(record: Mapping[str, Any], key: str) -> str:
    """An id that must be there: a text, or a whole number as text."""
    if key not in record:
        raise Fault("missing key", f"no {key!r}, found {keys_of(record)}")
    name = find_name(record, key)
    if not name:
        raise Fault("wrong type", f"{key!r} is {record[key]!r}, expected a text")
    return name


def find_name(record: Mapping[str, Any], *keys: str) -> str:
    """The first of several ids that is there, "" where none is."""
    for key in keys:
        value = record.get(key)
        if value is None or value == "":
            continue
        if type(value) not in (str, int):
            raise Fault("wrong type", f"{key!r} is {reprlib.repr(value)}, expected a text")
        return str(value)
    return ""


def keys_of(record: Mapping[str, Any]) -> str:
    """The keys of a record, for people."""
    names = [repr(key) for key in record]
    return ", ".join(names[:12] + ["..."] * (len(names) > 12)) or "no key at all"


def conversation_of(
    record: Record,
    messages: tuple[Message, ...],
    identity: str,
    user: str = "",
    preferences: tuple[Preference, ...] | None = None,
    told: Collection[str] = (),
) -> Conversation:
    """The dialogue of a record, under the record's own name where it brings no id.

    What the record says in single values goes along: language, toxicity, model, time; not those
    under the keys `told`, whose texts are messages already.
    """
    meta = {
        key: value
        for key, value in record.value.items()
        if isinstance(value, str | int | float) and key not in ("id", "user", *told)
    }
    name = identity or record.name
    return Conversation(name, messages, user, record.where, meta, preferences=preferences)
