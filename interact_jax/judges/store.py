"""Results on disk as they come: JSON Lines that only grow, each line under a key.

    with Store.open(folder / "verdicts.jsonl", "choice") as store:
        if (line := store.get(key)) is None:
            store.add(key, {"choice": "first"})

A key is the digest of everything that a result depends on, so what is found under it need not be
made again, in this evaluation or the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from interact_jax.schema import InputError

log = logging.getLogger(__name__)

DAMAGED = "{}:{}: not a line of ours. Delete the line: what it held is then made again."


def digest(value: Any) -> str:
    """The digest of JSON: 40 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class Store:
    """Lines by key. What is added is with the system at once, and on disk when it is closed."""

    def __init__(self, file: BinaryIO, lines: dict[str, dict[str, Any]]):
        self._file, self._lines = file, lines

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, *fields: str) -> Iterator[Store]:
        """Read what is there, lines with these fields, and write behind it. A last line that was
        cut off (its program was killed) is dropped and said so; any other broken line raises
        InputError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines, sound = _read(path, fields)
        with open(path, "ab") as file:
            file.truncate(sound)
            try:
                yield cls(file, lines)
            finally:
                file.flush()
                os.fsync(file.fileno())

    def get(self, key: str) -> Mapping[str, Any] | None:
        return self._lines.get(key)

    def add(self, key: str, line: Mapping[str, Any]) -> None:
        """Write a line. What was there under the key is replaced: the last one counts."""
        line = {"key": key, **line}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self._lines[key] = line


def _read(path: Path, fields: Sequence[str]) -> tuple[dict[str, dict[str, Any]], int]:
    """The lines by key, and the length of the file up to the last whole one."""
    data = path.read_bytes() if path.exists() else b""
    *whole, rest = data.split(b"\n")
    if rest:
        log.warning("%s: the last line was cut off; what it held is made again", path)
    lines: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(whole, 1):
        try:
            line = json.loads(text)
            lines[line["key"]] = {name: line[name] for name in ("key", *fields)}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError(DAMAGED.format(path, number)) from None
    return lines, len(data) - len(rest)
