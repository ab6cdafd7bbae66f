"""What is prepared, how, and where: all that a process needs to know to prepare a part.

OUT/                                             what remains
  NAME-SPLIT.array_record-00000-of-00012         a shard for each part and split
  NAME-SPLIT.index-00000-of-00012.npy            numbers of each record, see `data.prepared`
  dataset_info.json features.json                for TFDS
  card.json README.md                            what is in it, and what is not
  parts/plan.json                                the input and the settings
  parts/00000.read.json 00000.written.json       what was counted in each part
  parts/00000.{kept,ids,note-0,fates,decided.json}   removed when its shards are written
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from interact_jax import places
from interact_jax.data.sources import MOST_BYTES
from interact_jax.prepare.filtering import Filter, Survey
from interact_jax.prepare.parts import PART_BYTES
from interact_jax.prepare.splits import DEFAULT, Splits, format_splits
from interact_jax.schema import InputError

VERSION = 1  # of what is written
CHECKSUM = "checksum"  # a key in JSON files
SAMPLES = 3  # conversations shown for each reason for which a filter drops some


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides about the shards; another value makes other data."""

    data: str
    name: str = "conversations"
    format: str = "auto"
    on_error: str = "stop"
    repair: str = "join"
    max_bytes: int = MOST_BYTES
    mapping: str = ""  # a file, see `data.columns`
    filters: tuple[str, ...] = ()
    splits: Splits = DEFAULT
    part_bytes: int = PART_BYTES
    tokenizer: str = ""
    samples: int = SAMPLES

    def to_json(self) -> dict[str, Any]:
        shown = {"filters": list(self.filters), "splits": format_splits(self.splits)}
        return dataclasses.asdict(self) | shown | {"mapping": self._mapping}

    @property
    def _mapping(self) -> str:
        """The name of the mapping file, and a digest of what is in it."""
        if not self.mapping:
            return ""
        data = Path(self.mapping).expanduser().read_bytes()
        digest = hashlib.blake2b(data, digest_size=4).hexdigest()
        return f"{self.mapping} (content {digest})"


@dataclasses.dataclass(frozen=True)
class Job:
    """The settings with the filters that they name; `tokenizer` is the directory of one, or ""."""

    settings: Settings
    out: Path
    parts: int
    filters: tuple[Filter | Survey, ...]
    tokenizer: str = ""

    @functools.cached_property
    def surveys(self) -> list[tuple[int, Survey]]:
        """Those filters that decide when all is read, with their number."""
        return [(n, f) for n, f in enumerate(self.filters) if is_survey(f)]

    @property
    def folder(self) -> Path:
        return self.out / "parts"

    def file(self, part: int, what: str) -> Path:
        return self.folder / f"{part:05d}.{what}"

    def shard(self, split: str, part: int, kind: str = "array_record") -> Path:
        end = ".npy" if kind == "index" else ""
        return self.out / f"{self.settings.name}-{split}.{kind}-{part:05d}-of-{self.parts:05d}{end}"

    def was_read(self, part: int) -> bool:
        return self.file(part, "read.json").exists()

    def is_written(self, part: int) -> bool:
        return self.file(part, "written.json").exists()


def is_survey(given: Filter | Survey) -> TypeGuard[Survey]:
    return hasattr(given, "decide")


def plain(value: Any) -> Any:
    """A dataclass, with what is in it, as JSON values; `dataclasses.asdict` spoils Counters."""
    if dataclasses.is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """A JSON file, complete or not there at all, with a checksum of its name and what it says."""
    plainly = json.loads(json.dumps(value))
    whole = {**plainly, CHECKSUM: _checksum(file, plainly)}
    places.write(file, json.dumps(whole, indent=1, ensure_ascii=True) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """What was written by `write_json`. Raises InputError for anything else."""
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise damaged(file, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"damaged ({error})") from None
    if not isinstance(value, dict) or value.pop(CHECKSUM, None) != _checksum(file, value):
        raise damaged(file, "damaged, or of another version: its checksum is another")
    return value


def damaged(file: Path, what: str) -> InputError:
    """The error of a file among the parts that is not as it was written."""
    return InputError(f"{file}: {what}. Delete {file.parent.parent} and prepare it again.")


def _checksum(file: Path, value: Mapping[str, Any]) -> str:
    return digest_of_bytes(json.dumps([file.name, value], sort_keys=True).encode())


def digest_of_bytes(data: bytes) -> str:
    """By which it is seen that a file is as it was written."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def digest_of_file(file: Path) -> str:
    """As `digest_of_bytes`, of what is in a file, which may be large."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
