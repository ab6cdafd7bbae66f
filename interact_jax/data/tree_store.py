"""Trees of conversations on disk, filled as they are made, in any order, by any process.

    store = TreeStore.open(folder, key={...}, count=1_000_000)
    store.put(17, tokenised)
    store.get(17)              as it was put; None where there is nothing, or it is damaged
    store.sizes([17, 4])       of their trees, without reading these; None where one is missing

Every process appends to a file of its own; an index (`tree_index`) has an entry of 48 bytes for
each conversation: in which file its record is, and where, and the sizes of its trees. A record is
complete before the index names it, and both have checksums, so a store that was left at any moment
can be used again: what is missing or damaged is made anew. Two processes may put the same
conversation; they put the same trees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax.data.forest import Forest
from interact_jax.data.tokenise import Tokenised
from interact_jax.data.tree_index import (
    ENTRY,
    GIVEN,
    MOST,
    OFFSET_BITS,
    SEVERAL,
    Sizes,
    TreeIndex,
)
from interact_jax.data.tree_records import FORMAT, from_bytes, size_of_sizes, sizes_in, to_bytes

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<II")  # length and checksum of a record
FIRST = 2048  # bytes of a record that are read for its sizes
INDEX, KEY = "index.bin", "key.json"


class TreeStore:
    """The trees of `count` conversations in a folder. Another process opens it by itself."""

    def __init__(self, folder: Path, count: int):
        self.folder, self.count = folder, count
        self.full = False  # nothing more can be written
        self._index = TreeIndex(folder / INDEX, count)
        self._own: int | None = None  # descriptor of the file of this process
        self._number, self._end = 0, 0  # of that file
        self._readers: dict[int, int] = {}  # file number -> descriptor

    @classmethod
    def open(cls, folder: Path, key: Mapping[str, Any], count: int) -> TreeStore:
        """The store of this key below `folder`, as an earlier run left it, or an empty one."""
        place, text = _place_of(folder, key, count)
        if not (place / INDEX).exists():
            place.mkdir(parents=True, exist_ok=True)
            (place / KEY).write_text(text + "\n")
            # Two processes may come here: whoever links its empty index first has made the store.
            partial = place / f"{INDEX}.{uuid.uuid4().hex}"
            try:
                with partial.open("wb") as file:
                    # Without holes: on a full disk, writing into a mapped one kills the process.
                    if count:
                        os.posix_fallocate(file.fileno(), 0, ENTRY.itemsize * count)
                os.link(partial, place / INDEX)
            except FileExistsError:
                pass
            finally:
                partial.unlink()
        return cls(place, count)

    def has(self, indices: Sequence[int]) -> np.ndarray:
        """Whether each of these conversations has been put; its record may be damaged."""
        return self._index.find(indices)[1]

    def held(self) -> int:
        """How many conversations have been put."""
        return self._index.held()

    def get(self, index: int) -> Tokenised | None:
        """The trees of a conversation, if they are there and whole."""
        return self.get_all([index])[0]

    def get_all(self, indices: Sequence[int]) -> list[Tokenised | None]:
        """The trees of each of these conversations, where they are there and whole."""
        entry_C, is_there_C = self._index.find(indices)
        places, lengths = entry_C["place"].tolist(), (entry_C["length"] & MOST).tolist()
        found = zip(indices, places, lengths, is_there_C.tolist(), strict=True)
        return [self._read(*where) if there else None for *where, there in found]

    def sizes(self, indices: Sequence[int]) -> Sizes | None:
        """The sizes of the trees of these conversations; None where one has not been put. Where a
        conversation has several trees, the beginning of its record is read."""
        entry_C, is_there_C = self._index.find(indices)
        if not is_there_C.all():
            return None
        size_Cx5, length_C = entry_C["size"].astype(np.int64), entry_C["length"]
        trees_C = np.ones(len(indices), np.int64)
        several = np.flatnonzero(length_C & SEVERAL)
        if len(several):
            parts = list(size_Cx5[:, None])
            for n in several.tolist():
                own = self._sizes_of(int(entry_C["place"][n]), int(length_C[n] & MOST))
                if own is None or (own.sum(axis=0) != size_Cx5[n]).any():
                    self._index.drop(int(indices[n]))
                    return None
                parts[n], trees_C[n] = own, len(own)
            size_Cx5 = np.concatenate(parts)
        return Sizes(
            size_Cx5,
            trees_C,
            entry_C["units"].astype(np.int64),
            entry_C["weight"],
            bool((length_C & GIVEN).any()),
        )

    def put(self, index: int, tokenised: Tokenised) -> None:
        """Keep the trees of a conversation. Where the disk is full, nothing more is kept."""
        if self.full:
            return
        forest = Forest.of(tokenised.trees)
        data = to_bytes(dataclasses.replace(tokenised, trees=forest))
        record = _HEAD.pack(len(data), _checksum(index, data, 0)) + data
        if len(record) <= MOST and (place := self._append(record)):
            self._index.put(index, *place, len(record), forest)

    def close(self) -> None:
        """Close all files. What was put stays."""
        for file in self._readers.values():
            os.close(file)
        self._readers.clear()
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def _read(self, index: int, place: int, length: int) -> Tokenised | None:
        try:
            record = self._bytes(place, length)
            size, checksum = _HEAD.unpack_from(record)
            if (
                size == len(record) - _HEAD.size
                and _checksum(index, record, _HEAD.size) == checksum
            ):
                return from_bytes(record, _HEAD.size)
        except (OSError, ValueError, struct.error) as error:
            log.debug("%s: %s", self.folder, error)
        self._index.drop(index)
        return None

    def _sizes_of(self, place: int, length: int) -> np.ndarray | None:
        try:
            first = self._bytes(place, min(length, FIRST))[_HEAD.size :]
            if (needed := size_of_sizes(first)) > len(first):
                first = self._bytes(place, min(length, _HEAD.size + needed))[_HEAD.size :]
            return sizes_in(first)
        except (OSError, ValueError, struct.error) as error:
            log.debug("%s: %s", self.folder, error)
            return None

    def _bytes(self, place: int, length: int) -> bytes:
        """The first bytes of a record."""
        offset = place & ((1 << OFFSET_BITS) - 1)
        return os.pread(self._reader(place >> OFFSET_BITS), length, offset)

    def _append(self, record: bytes) -> tuple[int, int] | None:
        """The file and the offset of a record that has been written; None where it could not be."""
        try:
            if self._own is None:
                self._own = self._begin_file()
            if os.write(self._own, record) != len(record):
                raise OSError("the disk is full")
        except OSError as error:
            self.full = True
            log.warning("trees are not kept in %s any more: %s", self.folder, error)
            return None
        offset, self._end = self._end, self._end + len(record)
        return self._number, offset

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


def is_store(folder: Path, key: Mapping[str, Any], count: int) -> bool:
    """Whether there is a store of this key below `folder`, into which can be written."""
    return os.access(_place_of(folder, key, count)[0] / INDEX, os.W_OK)


def _place_of(folder: Path, key: Mapping[str, Any], count: int) -> tuple[Path, str]:
    text = json.dumps({"format": FORMAT, "count": count, **key}, sort_keys=True)
    return folder / hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), text


def _checksum(index: int, record: bytes, start: int) -> int:
    """Of a record from `start` on, and of the conversation that it is of."""
    return zlib.crc32(memoryview(record)[start:], index & 0xFFFFFFFF)
