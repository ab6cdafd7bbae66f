"""Prepared data, as `launch/prepare_data.py` writes them: any conversation by its number.

    data = PreparedData("data/my_logs", "train")
    len(data), data[17], data.batch([5, 3, 5]), data.digest

Nothing but the numbers of records is in memory. It can be pickled, and used from several threads
and processes.
"""

from __future__ import annotations

import bisect
import collections
import difflib
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from interact_jax.data.array_records import decode, read, reader_of
from interact_jax.json_files import FILE_NAME, check, read_json, whole
from interact_jax.schema import Conversation, InputError

CARD = "card.json"
MOST_OPEN = 64  # shards
SHARD = {"file": FILE_NAME, "records": whole(0, 2**62), "size": whole(0, 2**62)}


def is_prepared(path: str | Path) -> bool:
    """Whether a path is a directory of prepared data, complete or not."""
    return (Path(path) / CARD).is_file() or (Path(path) / "parts" / "plan.json").is_file()


class PreparedData(Sequence[Conversation]):
    """The conversations of a split, in the order of the input.

    Raises InputError where there are none, where a shard does not have the size that the card says,
    and, with its file and number, for a record that is damaged.
    """

    def __init__(self, directory: str | Path, split: str = "train"):
        self.directory, self.split = Path(directory), split
        found = _split_of(self.directory, split)
        self.digest: str = found["digest"]
        shards = found["shards"]
        self._files = [self.directory / shard["file"] for shard in shards]
        for file, shard in zip(self._files, shards, strict=True):
            _check_size(file, shard["size"])
        self._ends = list(itertools.accumulate(shard["records"] for shard in shards))
        self._records = [shard["records"] for shard in shards]
        self._prepare_readers()

    def _prepare_readers(self) -> None:
        self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare_readers()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.batch(range(*index.indices(len(self))))
        return self.batch([index])[0]

    def __iter__(self) -> Iterator[Conversation]:
        for start in range(0, len(self), 64):
            yield from self.batch(range(start, min(start + 64, len(self))))

    def batch(self, indices: Sequence[int]) -> list[Conversation]:
        """Conversations by their numbers, in the order of these."""
        wanted: dict[int, list[tuple[int, int]]] = {}  # by shard: record there, place in the batch
        for place, index in enumerate(indices):
            number = range(len(self))[index]
            shard = bisect.bisect_right(self._ends, number)
            start = self._ends[shard - 1] if shard else 0
            wanted.setdefault(shard, []).append((number - start, place))
        found: dict[int, Conversation] = {}
        for shard, items in wanted.items():
            file, records = self._files[shard], [record for record, _ in items]
            data = read(self._reader(shard), records, file)
            for (record, place), one in zip(items, data, strict=True):
                found[place] = decode(one, f"{file}, record {record}")
        return [found[place] for place in range(len(indices))]

    def _reader(self, shard: int) -> Any:
        """The open reader of a shard; those that were not used for longest are let go."""
        with self._lock:
            if shard in self._readers:
                self._readers.move_to_end(shard)
                return self._readers[shard]
            file = self._files[shard]
            reader = reader_of(file)
            if (count := reader.num_records()) != self._records[shard]:
                raise InputError(
                    f"{file}: damaged: has {count:,} records, expected {self._records[shard]:,}. "
                    "Copy or prepare it again."
                )
            self._readers[shard] = reader
            if len(self._readers) > MOST_OPEN:
                self._readers.popitem(last=False)  # a thread that still reads it keeps it open
            return reader


def _split_of(directory: Path, split: str) -> dict[str, Any]:
    """What the card says about a split. Raises InputError."""
    if not (directory / CARD).is_file():
        if is_prepared(directory):
            raise InputError(
                f"{directory}: was not prepared to the end. Start the command that prepares it "
                "again: it goes on where it stopped."
            )
        raise InputError(
            f"{directory}: no prepared data: there is no {CARD}. `interact prepare-data` makes it."
        )
    card = read_json(directory / CARD)
    splits = card.get("splits")
    if not isinstance(splits, dict) or not splits:
        raise InputError(f"{directory / CARD}: no card of prepared data: it has no splits.")
    if split not in splits:
        near = difflib.get_close_matches(split, splits, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{directory}: there is no split {split!r}, expected one of {', '.join(splits)}.{hint}"
        )
    found = splits[split]
    try:
        for shard in found["shards"]:
            check(shard, SHARD, directory / CARD)
            if not shard.keys() >= SHARD.keys():
                raise KeyError("file, records or size of a shard")
        if not isinstance(found["digest"], str):
            raise TypeError("no digest")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{directory / CARD}: split {split}: {error} is missing.") from None
    return found


def _check_size(file: Path, size: int) -> None:
    if not file.is_file():
        raise InputError(f"{file}: there is no such file. Copy or prepare it again.")
    if (actual := file.stat().st_size) != size:
        raise InputError(
            f"{file}: damaged: has {actual:,} bytes, expected {size:,}. Copy or prepare it again."
        )
