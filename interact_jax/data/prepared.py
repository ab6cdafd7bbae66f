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
import hashlib
import io
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax.data.array_records import checksum_of, decode, read, reader_of
from interact_jax.json_files import FILE_NAME, TEXT, check, read_json, whole
from interact_jax.schema import Conversation, InputError

CARD = "card.json"
EARLIER = np.dtype(
    [("user", "<u8"), ("interactions", "<u4"), ("tokens", "<u4"), ("reply_tokens", "<u4")]
)
INDEX = np.dtype([*EARLIER.descr, ("checksum", "<u4")])
"""Numbers of a conversation, in a .npy file beside its shard: a hash of the user, 0 where nobody is
named; its interactions; its tokens and those of its replies, each message by itself, 0 where no
tokenizer was given; and the checksum of its record, which an earlier version did not write."""
MOST_OPEN = 64  # shards
AGAIN = "Copy or prepare the directory again."
DIGEST_BYTES = 32  # `b2sum -l 256 FILE` computes the same
FILE = {"file": FILE_NAME, "size": whole(0, 2**62), "digest": TEXT}
SHARD = {"records": whole(0, 2**62), **FILE}


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
        index = _read_index(self.directory, found)
        self.users, self.interactions = index["user"].copy(), index["interactions"].astype(np.int32)
        self._checksums = index["checksum"].copy()
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
            start = self._ends[shard] - self._records[shard]
            for (record, place), one in zip(items, data, strict=True):
                where = f"{file}, record {record}"
                if self._checksums[start + record] not in (0, checksum_of(one)):
                    raise InputError(
                        f"{where}: damaged: it is another one than was written. Copy or prepare it "
                        "again."
                    )
                found[place] = decode(one, where)
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
    card = _card_of(directory)
    splits = card["splits"]
    if split not in splits:
        near = difflib.get_close_matches(split, splits, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{directory}: there is no split {split!r}, expected one of {', '.join(splits)}.{hint}"
        )
    found = splits[split]
    try:
        for kind, form in (("shards", SHARD), ("index", FILE)):
            for each in found[kind]:
                check(each, form, directory / CARD)
                if not each.keys() >= form.keys():
                    raise KeyError(f"{', '.join(form)} of its {kind}")
        if [_index_of(shard["file"]) for shard in found["shards"]] != [
            index["file"] for index in found["index"]
        ]:
            raise KeyError("the index of each shard")
        if digest_of(found["shards"]) != found["digest"]:
            raise InputError(
                f"{directory / CARD}: damaged: split {split}: its shards have another digest than "
                f"it says. {AGAIN}"
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{directory / CARD}: split {split}: {error} is missing. {AGAIN}"
        ) from None
    return found


def _index_of(shard: str) -> str:
    """The name of the file with the numbers of a shard's conversations."""
    return shard.replace(".array_record-", ".index-") + ".npy"


def digest_of(shards: Iterable[Mapping[str, Any]]) -> str:
    """One digest of files, as of the output of `b2sum -l 256 FILES`."""
    lines = "".join(f"{each['digest']}  {each['file']}\n" for each in shards)
    return blake2b(lines.encode("utf-8", "surrogatepass")).hexdigest()


def blake2b(data: bytes = b"") -> Any:
    """The hash by which files are known."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES)


def _card_of(directory: Path) -> dict[str, Any]:
    if not (directory / CARD).is_file():
        if is_prepared(directory):
            raise InputError(
                f"{directory}: was not prepared to the end. Start the command that prepares it "
                "again: it goes on where it stopped."
            )
        raise InputError(
            f"{directory}: no prepared data: there is no {CARD}. `interact prepare-data` makes it."
        )
    try:
        card = read_json(directory / CARD)
    except InputError as error:
        raise InputError(f"{error} {AGAIN}") from None
    splits = card.get("splits")
    if not isinstance(splits, dict) or not splits:
        raise InputError(f"{directory / CARD}: damaged: it has no splits. {AGAIN}")
    return card


def splits_of(directory: str | Path) -> list[str]:
    """The names of the splits. Raises InputError where nothing is prepared there."""
    return list(_card_of(Path(directory))["splits"])


def _read_index(directory: Path, split: dict[str, Any]) -> np.ndarray:
    """The numbers of all conversations of a split. Raises InputError."""
    parts = []
    for shard, described in zip(split["shards"], split["index"], strict=True):
        file = directory / described["file"]
        _check_size(file, described["size"])
        data = file.read_bytes()
        if blake2b(data).hexdigest() != described["digest"]:
            raise InputError(f"{file}: damaged: it has another digest. Copy or prepare it again.")
        part = np.load(io.BytesIO(data), allow_pickle=False)
        if part.dtype == EARLIER:
            part = _without_checksums(part)
        if part.dtype != INDEX or part.shape != (shard["records"],):
            raise InputError(
                f"{file}: damaged: it has other numbers than {shard['file']} has records. Copy or "
                "prepare it again."
            )
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros(0, INDEX)


def _without_checksums(earlier: np.ndarray) -> np.ndarray:
    """The numbers as of now: 0 where there is no checksum."""
    index = np.zeros(earlier.shape, INDEX)
    for name in EARLIER.names or ():
        index[name] = earlier[name]
    return index


def _check_size(file: Path, size: int) -> None:
    if not file.is_file():
        raise InputError(f"{file}: there is no such file. Copy or prepare it again.")
    if (actual := file.stat().st_size) != size:
        raise InputError(
            f"{file}: damaged: has {actual:,} bytes, expected {size:,}. Copy or prepare it again."
        )
