"""What readers of all formats share: faults, keys that must be there, ids, numbers."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from interact_jax.settings import LARGEST

_KINDS: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}


class Fault(Exception):
    """A record, or a message of it, cannot be used. `reason` is the kind, to count by."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Unclean(Fault):
    """Well-formed, but to be mended before it is of use, and `data.repair` says otherwise."""


@contextlib.contextmanager
def within(label: str) -> Iterator[None]:
    """Say where in the record a Fault lies."""
    try:
        yield
    except Fault as fault:
        raise type(fault)(fault.reason, f"{label}: {fault.detail}") from None


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
        return whole_text(str(value), repr(key))
    return ""


def whole_text(text: str, label: str) -> str:
    """`text`, if it is whole: "\\ud83d" alone is legal JSON, and half a character. Raises Fault."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"{text[error.start]!r} at character {error.start}"
        detail = f"{label} holds {half}, one half of a surrogate pair"
        raise Fault("broken character", detail) from None
    return text


def number(value: Any) -> float | None:
    """`value` as a float, None where it is no number that float32 holds: devices compute in it."""
    if type(value) not in (int, float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return None
    return found if abs(found) <= LARGEST else None


def keys_of(record: Mapping[str, Any]) -> str:
    """The keys of a record, for people."""
    names = [reprlib.repr(key) for key in record]
    return ", ".join(names[:12] + ["..."] * (len(names) > 12)) or "no key at all"
