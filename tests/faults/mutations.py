"""Small damage to a file's bytes, and to a JSON value: each a function of a random generator."""

from __future__ import annotations

import copy
import json
import random
import reprlib
from typing import Any

# ----------------------------------------------------------------------------------------- bytes

CONTROL = (b"\0", b"\x01", b"\x07", b"\x08", b"\x0b", b"\r", b"\x1b[31m", b"\x7f", b"\xc2\x9b")
NO_UTF8 = (b"\xff", b"\xc3", b"\x80", b"\xc0\x80", b"\xed\xa0\xbd", b"\xf5\x80\x80\x80")
MARKS = ("\ufeff", "\u2028", "\u202e", "\U000e0001")
SIGNS = (*b'{}[]":,\\\n', *b" 09-e")


def piece(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Where a piece begins and ends: a few bytes, or many."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice([1, 1, 2, 5, 20, 200, 5000]))


def flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    changed, at = bytearray(data), rng.randrange(len(data))
    changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice([0, 1, rng.randrange(len(data) + 1), max(0, len(data) - 1)])]


def take_out(data: bytes, rng: random.Random) -> bytes:
    start, stop = piece(data, rng)
    return data[:start] + data[stop:]


def double(data: bytes, rng: random.Random) -> bytes:
    start, stop = piece(data, rng)
    return data[:stop] + data[start:]


def swap(data: bytes, rng: random.Random) -> bytes:
    """Two neighbouring pieces."""
    start, middle = piece(data, rng)
    stop = min(len(data), 2 * middle - start)
    return data[:start] + data[middle:stop] + data[start:middle] + data[stop:]


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """A block that never reached the disk, or is another file's."""
    start, stop = piece(data, rng)
    block = rng.choice([bytes(stop - start), rng.randbytes(stop - start)])
    return data[:start] + block + data[stop:]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.choice([0, len(data), rng.randrange(len(data) + 1)])
    marks = [mark.encode() for mark in MARKS]
    return data[:at] + rng.choice(rng.choice([CONTROL, NO_UTF8, marks])) + data[at:]


def put_sign(data: bytes, rng: random.Random) -> bytes:
    """A character that means something to JSON, inserted or in the place of another."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes([rng.choice(SIGNS)]) + data[at + rng.randrange(2) :]


def as_utf16(data: bytes, rng: random.Random) -> bytes:
    return data.decode(errors="replace").encode("utf-16")


def as_latin1(data: bytes, rng: random.Random) -> bytes:
    return data.decode(errors="replace").encode("latin-1", "replace")


def line_in_utf16(data: bytes, rng: random.Random) -> bytes:
    """A line of another file, in another encoding."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = as_utf16(lines[at], rng)
    return b"\n".join(lines)


def with_returns(data: bytes, rng: random.Random) -> bytes:
    """Lines as another system ends them."""
    return data.replace(b"\n", rng.choice([b"\r\n", b"\r"]))


IN_PLACE = (flip, flip, cut, take_out, double, swap, overwrite, insert, insert, put_sign)
ENCODINGS = (as_utf16, as_latin1, line_in_utf16, with_returns)


def of_bytes(data: bytes, rng: random.Random, times: int = 1) -> tuple[bytes, str]:
    """Bytes that were damaged so many times, and the kinds of damage."""
    told = []
    for _ in range(times):
        damage = rng.choice(ENCODINGS if rng.random() < 0.1 else IN_PLACE)
        data = damage(data, rng)
        told.append(damage.__name__)
    return data, ", ".join(told)


# ------------------------------------------------------------------------------------- structure

STRANGE = (
    *("null", "true", "[]", "{}", "[null]", "[[]]", '[{"a": 1}]', '""', '" "', '"7"', '"user"'),
    *("0", "1", "-1", "1.5", "-0.0", "1e308", "1e999", "5e-324", "9223372036854775808"),
    *("NaN", "-Infinity", "1" + "0" * 400, "7" * 5000),
    *(r'"\ud800"', r'"\u0000"', r'"\u001b[31m"', r'"\ufeff"', r'"\u2028\u202e"'),
    *('"' + "x" * 10**5, '"' + "x" * 10**5 + '"'),
    *("[" * 10**5 + "]" * 10**5, '{"a": ' * 600 + "1" + "}" * 600),
)
"""JSON values that hardly anybody expects, as they are written; one has no end."""
PLACE = "\0 strange"  # where one of them comes in
DEEPER = 0.75  # how often the way goes on to a value's parts


def of_value(value: Any, rng: random.Random) -> tuple[str, str]:
    """The JSON of a value of which one part is damaged, and what was done to it."""
    value = copy.deepcopy(value)
    path, parent = [], None
    here: Any = value
    while here and isinstance(here, dict | list) and (not path or rng.random() < DEEPER):
        key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        parent, here = here, here[key]
        path.append(key)
    if parent is None:
        return rng.choice(STRANGE), "all of it is another value"
    damage = rng.choice((replace, replace, replace, remove, again, rename, exchange))
    written = damage(parent, path[-1], rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    told = f"{'.'.join(map(str, path))}: {damage.__name__} {written[:40]}"
    return text.replace(json.dumps(PLACE), written, 1), told


def replace(parent: Any, key: Any, rng: random.Random) -> str:
    parent[key] = PLACE
    return rng.choice(STRANGE)


def remove(parent: Any, key: Any, rng: random.Random) -> str:
    del parent[key]
    return ""


def again(parent: Any, key: Any, rng: random.Random) -> str:
    """A key, or an item of a list, that stands there twice; the second with another value."""
    then, parent[key] = json.dumps(parent[key]), PLACE
    second = rng.choice([then, rng.choice(STRANGE)])
    return f"{then}, {json.dumps(key)}: {second}" if isinstance(parent, dict) else f"{then}, {then}"


def rename(parent: Any, key: Any, rng: random.Random) -> str:
    if isinstance(parent, list):
        return replace(parent, key, rng)
    name = rng.choice([key + "s", key.upper(), "", "\x1b[2J", rng.choice(list(parent))])
    items = [(name if k == key else k, value) for k, value in parent.items()]
    parent.clear()
    parent.update(items)
    return reprlib.repr(name)


def exchange(parent: Any, key: Any, rng: random.Random) -> str:
    """Two values of one object or list."""
    other = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    parent[key], parent[other] = parent[other], parent[key]
    return f"with {other}"
