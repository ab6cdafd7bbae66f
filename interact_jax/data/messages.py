"""What readers of all formats share: faults, required keys, ids, numbers."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from interact_jax.settings import LARGEST

_KINDS: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}


class Fault(Exception):
    """A record or a message cannot be used. `reason` is the kind of fault, to count by."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Unclean(Fault):
    """Well-formed input that needs mending, where `data.repair` does not allow it."""


@contextlib.contextmanager
def faults_at(label: str) -> Iterator[None]:
    """Add to a Fault where in the record it lies."""
    try:
        yield
    except Fault as fault:
        raise type(fault)(fault.reason, f"{label}: {fault.detail}") from None


def require_object(value: Any) -> dict[str, Any]:
    """`value`, which must be a JSON object. Raises Fault."""
    if not isinstance(value, dict):
        raise Fault("not an object", f"found {reprlib.repr(value)}, expected a JSON object")
    return value


def require(record: Mapping[str, Any], key: str, *kinds: type) -> Any:
    """The value of a required key, of one of `kinds`: str, list, dict. Raises Fault."""
    if key not in record:
        raise Fault("missing key", f"no {key!r}, found {keys_of(record)}")
    if not isinstance(record[key], kinds):
        given, wanted = reprlib.repr(record[key]), " or ".join(_KINDS[kind] for kind in kinds)
        raise Fault("wrong type", f"{key!r} is {given}, expected {wanted}")
    return record[key]


def require_name(record: Mapping[str, Any], key: str) -> str:
    """A required id: a text, or a whole number as text. Raises Fault."""
    if key not in record:
        raise Fault("missing key", f"no {key!r}, found {keys_of(record)}")
    name = find_name(record, key)
    if not name:
        raise Fault("wrong type", f"{key!r} is {record[key]!r}, expected a string")
    return name


def find_name(record: Mapping[str, Any], *keys: str) -> str:
    """The first of several ids that is present, "" where none is. Raises Fault."""
    for key in keys:
        value = record.get(key)
        if value is None or value == "":
            continue
        if type(value) not in (str, int):
            raise Fault("wrong type", f"{key!r} is {reprlib.repr(value)}, expected a string")
        return check_text(str(value), repr(key))
    return ""


def check_text(text: str, label: str) -> str:
    """`text`, if it is Unicode: "\\ud83d" alone is JSON but half a character. Raises Fault."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"{text[error.start]!r} at character {error.start}"
        detail = f"{label} holds {half}, one half of a surrogate pair"
        raise Fault("broken character", detail) from None
    return text


def as_float(value: Any) -> float | None:
    """`value` as a float; None unless it is a number in the range of float32, as devices need."""
    if type(value) not in (int, float):
        return None
    try:
        converted = float(value)
    except OverflowError:  # JSON allows whole numbers of any length
        return None
    return converted if abs(converted) <= LARGEST else None


def keys_of(record: Mapping[str, Any]) -> str:
    """The keys of a record, for people."""
    names = [reprlib.repr(key) for key in record]
    return ", ".join(names[:12] + ["..."] * (len(names) > 12)) or "no key at all"
