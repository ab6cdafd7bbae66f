"""Trees of conversations on disk, filled as they are made, in any order, by any process.

    store = TreeStore.open(folder, key={...}, count=1_000_000)
    store.put(17, tokenised)
    store.get(17)              as it was put; None where there is nothing, or it is damaged

Every process appends to a file of its own; an index of 8 bytes for each conversation says in which
file, and where, its record begins. A record is complete before the index names it, and has a
checksum, so a store that was left at any moment can be used again: what is missing or damaged is
made anew. Two processes may put the same conversation; they put the same trees.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import struct
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax.data.tokenise import Tokenised
from interact_jax.data.tree_records import FORMAT, from_bytes, to_bytes

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<II")  # length and checksum of a record
OFFSET_BITS = 40  # of an entry of the index; the rest numbers the file, from 1
INDEX, KEY = "index.u64", "key.json"


class TreeStore:
    """The trees of `count` conversations in a folder. Another process opens it by itself."""

    def __init__(self, folder: Path, count: int):
        self.folder, self.count = folder, count
        self.full = False  # nothing more can be written
        self._index_N = np.memmap(folder / INDEX, np.uint64, "r+", shape=(count,))
        self._own: int | None = None  # descriptor of the file of this process
        self._number, self._end = 0, 0  # of that file
        self._readers: dict[int, int] = {}  # file number -> descriptor

    @classmethod
    def open(cls, folder: Path, key: Mapping[str, Any], count: int) -> TreeStore:
        """The store of this key below `folder`, as an earlier run left it, or an empty one."""
        text = json.dumps({"format": FORMAT, "count": count, **key}, sort_keys=True)
        place = folder / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        if not (place / INDEX).exists():
            place.mkdir(parents=True, exist_ok=True)
            (place / KEY).write_text(text + "\n")
            # Two processes may come here: whoever links its empty index first has made the store.
            partial = place / f"{INDEX}.{uuid.uuid4().hex}"
            with partial.open("wb") as file:
                file.truncate(8 * count)
            try:
                os.link(partial, place / INDEX)
            except FileExistsError:
                pass
            finally:
                partial.unlink()
        return cls(place, count)

    def has(self, index: int) -> bool:
        """Whether a conversation has been put, damaged or not."""
        return bool(self._index_N[index])

    def held(self) -> int:
        """How many conversations have been put."""
        return int(np.count_nonzero(self._index_N))

    def get(self, index: int) -> Tokenised | None:
        """The trees of a conversation, if they are there and whole."""
        entry = int(self._index_N[index])
        if not entry:
            return None
        try:
            file = self._reader(entry >> OFFSET_BITS)
            offset = entry & ((1 << OFFSET_BITS) - 1)
            head = os.pread(file, _HEAD.size, offset)
            length, checksum = _HEAD.unpack(head)
            data = os.pread(file, length, offset + _HEAD.size)
            if len(data) == length and _checksum(index, data) == checksum:
                return from_bytes(data)
        except (OSError, ValueError, IndexError, struct.error) as error:
            log.debug("%s: %s", self.folder, error)
        self._index_N[index] = 0
        return None

    def put(self, index: int, tokenised: Tokenised) -> None:
        """Keep the trees of a conversation. Where the disk is full, nothing more is kept."""
        if not self.full:
            self._index_N[index] = self._append(index, to_bytes(tokenised))

    def close(self) -> None:
        """Close all files. What was put stays."""
        for file in self._readers.values():
            os.close(file)
        self._readers.clear()
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def _append(self, index: int, data: bytes) -> int:
        """The entry of the index for a record that has been written; 0 where it could not be."""
        record = _HEAD.pack(len(data), _checksum(index, data)) + data
        try:
            if self._own is None:
                self._own = self._begin_file()
            if os.write(self._own, record) != len(record):
                raise OSError("the disk is full")
        except OSError as error:
            self.full = True
            log.warning("trees are not kept in %s any more: %s", self.folder, error)
            return 0
        offset, self._end = self._end, self._end + len(record)
        return self._number << OFFSET_BITS | offset

    def _begin_file(self) -> int:
        """A file of this process: the first number that is free."""
        flags = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY
        for number in itertools.count(self._number + 1):
            with contextlib.suppress(FileExistsError):
                file = os.open(self._file(number), flags, 0o644)
                self._number, self._end = number, 0
                return file
        raise AssertionError("numbers do not end")

    def _reader(self, number: int) -> int:
        if number not in self._readers:
            self._readers[number] = os.open(self._file(number), os.O_RDONLY)
        return self._readers[number]

    def _file(self, number: int) -> Path:
        return self.folder / f"trees-{number:06d}.bin"


def _checksum(index: int, data: bytes) -> int:
    """Of a record and the conversation that it is of."""
    return zlib.crc32(data, index & 0xFFFFFFFF)
