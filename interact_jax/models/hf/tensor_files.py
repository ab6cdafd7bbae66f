"""Safetensors files: reading parts of tensors from one or more, and writing them one by one."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from interact_jax import store
from interact_jax.json_files import FILE_NAME, read_json, short
from interact_jax.schema import InputError
from interact_jax.store import Place

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
COMPARED = 1 << 24  # numbers of two tensors that are compared at a time
MOST_BYTES = 1 << 63  # more than any file has
SHARD = r"model-\d{5,}-of-\d{5,}\.safetensors"
STORED = {4: "F32", 2: "BF16"}  # bytes per number -> types of weights that are written
ALIGNED = 8  # bytes of which a header has a multiple
READABLE = {"F32": 4, "BF16": 2, "F16": 2}  # types of stored weights -> bytes per number


def is_of_weights(name: str) -> bool:
    """Whether a file of a model directory holds weights, or says where they are."""
    return name in (SINGLE, INDEX) or re.fullmatch(SHARD, name) is not None


class _Header(NamedTuple):
    """What a file says of a tensor, and which file; `stored` is its type, by safetensors' name."""

    file: Path
    shape: tuple[int, ...]
    stored: str


class TensorFiles:
    """The tensors of a model directory, by name; only headers are read until `read` is called.

    A file is open only while something is read from it: what was read of an open file stays mapped,
    and would count as memory of this process until all is read, the whole model in the end.

    Raises InputError for anything that can be wrong with downloaded weights.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._headers: dict[str, _Header] = {}
        if (directory / SINGLE).is_file():
            self._add(directory / SINGLE)
        elif (directory / INDEX).is_file():
            self._add_indexed(directory / INDEX)
        else:
            raise InputError(_no_weights(directory))

    @staticmethod
    def exist(directory: Path) -> bool:
        """Whether a directory has weights in this form."""
        return any((directory / name).is_file() for name in (SINGLE, INDEX))

    def names(self) -> set[str]:
        return set(self._headers)

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._headers[name].file

    def shape(self, name: str) -> tuple[int, ...]:
        return self._headers[name].shape

    def check_readable(self, name: str) -> None:
        """Raise InputError if a tensor is stored in a type that is not a plain float."""
        stored = self._headers[name].stored
        if stored not in READABLE:
            raise InputError(
                f"{self.file(name)}: tensor {name} is stored as {stored}; expected one of "
                f"{', '.join(READABLE)}. Quantised weights cannot be trained: use the model's "
                "unquantised version."
            )

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor, in its stored type."""
        with _opened(self.file(name)) as tensors:
            return tensors.get_slice(name)[index]

    def differ(self, first: str, second: str) -> bool:
        """Whether both tensors exist and are not equal."""
        if not {first, second} <= self.names():
            return False
        if self.shape(first) != self.shape(second) or not self.shape(first):
            return True
        for name in (first, second):
            self.check_readable(name)
        rows = self.shape(first)[0]
        step = max(1, COMPARED // max(1, math.prod(self.shape(first)[1:])))
        for start in range(0, rows, step):
            part = (slice(start, min(start + step, rows)),)
            a, b = (self.read(name, part).astype(np.float32) for name in (first, second))
            if not np.array_equal(a, b, equal_nan=True):
                return True
        return False

    def _add(self, path: Path) -> set[str]:
        with _opened(path) as tensors:
            slices = zip(names := tensors.keys(), map(tensors.get_slice, names), strict=True)
            headers = {
                name: _Header(path, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices
            }
        if twice := sorted(headers.keys() & self._headers.keys()):
            raise InputError(
                f"{path}: holds tensors that {self.file(twice[0]).name} holds, too: "
                f"{list_names(twice)}. Files of different downloads are mixed; get them again."
            )
        self._headers |= headers
        return set(headers)

    def _add_indexed(self, index: Path) -> None:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(
                f"{index}: not an index of safetensors files: weight_map={short(weight_map)}. "
                'Expected "weight_map": {tensor: file}; download it again.'
            )
        for name, shard in weight_map.items():
            if not FILE_NAME.fits(shard):
                raise InputError(
                    f"{index}: weight_map: {short(name)}: {short(shard)}; expected "
                    f"{FILE_NAME.description}."
                )
        shards = sorted(set(weight_map.values()))
        absent = [shard for shard in shards if not (self.directory / shard).is_file()]
        if absent:
            raise InputError(
                f"{self.directory}: {len(absent)} of the {len(shards)} files named in {index.name} "
                f"are missing: {list_names(absent)}. Download them again."
            )
        for shard in shards:
            promised = {name for name, file in weight_map.items() if file == shard}
            lacking = sorted(promised - self._add(self.directory / shard))
            if lacking:
                raise InputError(
                    f"{self.directory / shard}: lacks tensors that {index.name} says it has: "
                    f"{list_names(lacking)}. File and index are of different downloads; get both "
                    "again."
                )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file. Raises InputError where it cannot be opened or read."""
    try:
        with safe_open(path, framework="numpy") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise InputError(_damaged(path, error)) from error


def list_names(names: Sequence[str], limit: int = 8) -> str:
    """A list of names for a message, shortened if it is long."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _damaged(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(24)
    except OSError as unreadable:
        return f"{path}: cannot be read ({unreadable.strerror})."
    if start.startswith(b"version https://git-lfs"):
        return f"{path}: a Git LFS pointer and not the weights. Run `git lfs pull` where it lies."
    return (
        f"{path}: damaged or incomplete, {path.stat().st_size:,} bytes ({error}). The download was "
        "probably interrupted: delete the file and download it again."
    )


def _no_weights(directory: Path) -> str:
    torch_files = sorted(directory.glob("pytorch_model*.bin"))
    if torch_files:
        return (
            f"{directory}: only PyTorch weights ({torch_files[0].name}), not read because "
            'they can run code. Convert them once to safetensors:\n  python -c "from transformers '
            f"import AutoModelForCausalLM as M; M.from_pretrained('{directory}', dtype='auto')"
            ".save_pretrained('CONVERTED')\"\nand copy the tokenizer files beside them."
        )
    names = sorted(path.name for path in directory.iterdir())
    return (
        f"{directory}: no weights. Expected {SINGLE}, or {INDEX} and the files it names; there is "
        f"{list_names(names) or 'nothing'}. To train from random weights, set model.init=random."
    )


# ----------------------------------------------------------------------------------- writing


def parse_size(size: str | int) -> int:
    """Bytes of "5GB", "500MB", "1GiB" or a plain number; decimal units are powers of 1000."""
    powers = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", str(size).upper())
    count = 0.0
    if match:
        count = float(match[1]) * (1024 if match[3] else 1000) ** powers[match[2]]
    if not 1 <= count < MOST_BYTES:
        raise InputError(
            f"max_shard_size={short(size)}: expected a size such as 5GB, 500MB or 1GiB."
        )
    return int(count)


def _write_file(
    file: Path,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[str, bool], np.ndarray | None],
    bytes_each: int,
) -> None:
    """Write a safetensors file, tensor by tensor as they are made; byte for byte what
    `safetensors.numpy.save_file` makes of all of them."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # else transformers 4 refuses it
    ends = itertools.accumulate(math.prod(shapes[n]) * bytes_each for n in sorted(shapes))
    begins = dict(zip(sorted(shapes), itertools.chain([0], ends), strict=False))
    for name, begin in begins.items():
        end = begin + math.prod(shapes[name]) * bytes_each
        header[name] = {
            "dtype": STORED[bytes_each],
            "shape": shapes[name],
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNED)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in shapes:
            tensor = make(name, True)
            assert tensor is not None and tensor.nbytes == math.prod(shapes[name]) * bytes_each
            out.seek(8 + len(text) + begins[name])
            out.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            del tensor


def write_tensors(
    directory: Place,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[str, bool], np.ndarray | None],
    bytes_each: int,
    max_bytes: int,
    writes: Callable[[int], bool] = lambda file: True,
) -> None:
    """Write tensors in the order of `shapes`, at most `max_bytes` a file (or one tensor a file).

    One file if all fit, else numbered files with an index, named as by Hugging Face. `make` is
    called for each tensor when it is written, so the host holds one at a time. Of several
    processes, which all call `make`, each `writes` the files with some numbers, 0, 1, ...; for the
    others' tensors it calls `make` with False, and wants nothing of it. The index is written where
    file 0 is.
    """
    size = {name: int(np.prod(shape)) * bytes_each for name, shape in shapes.items()}
    shards: list[list[str]] = [[]]
    for name in shapes:
        if shards[-1] and sum(size[other] for other in shards[-1]) + size[name] > max_bytes:
            shards.append([])
        shards[-1].append(name)
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [SINGLE]
    for number, (file, names) in enumerate(zip(files, shards, strict=True)):
        if not writes(number):
            for name in names:
                make(name, False)
            continue
        with store.of(directory).making(directory / file) as made_here:
            _write_file(made_here, {name: shapes[name] for name in names}, make, bytes_each)
    if writes(0) and len(shards) > 1:
        total = sum(size.values())
        index = {
            "metadata": {"total_parameters": total // bytes_each, "total_size": total},
            "weight_map": {
                name: file
                for file, names in zip(files, shards, strict=True)
                for name in sorted(names)
            },
        }
        with store.of(directory).making(directory / INDEX) as made_here:
            made_here.write_text(json.dumps(index, indent=2) + "\n")
