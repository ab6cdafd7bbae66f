"""Files elsewhere, read as those here: data sets of the Hugging Face hub, and buckets.

hf://datasets/OWNER/NAME/data/train-*.parquet        with HF_TOKEN, if it is not public
gs://BUCKET/logs                                     with gcsfs, as the extra "gs"
s3://BUCKET/logs/2024.jsonl.zst                      with s3fs, as the extra "s3"
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import fsspec

from interact_jax.schema import InputError

ADVICE = {
    "hf": "Check the name, the network and HF_TOKEN; or fetch it where there is a network, "
    "`hf download OWNER/NAME --repo-type dataset --local-dir DIR`, and give that directory",
    "gs": "Check the name, the network and the credentials (`gcloud auth application-default "
    "login`)",
    "s3": "Check the name, the network and the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE)",
}
"""What can be done where a file cannot be reached, by the beginning of its address."""
INSTALL = {"gs": "pip install gcsfs", "s3": "pip install s3fs", "hf": "pip install huggingface_hub"}
NO_RECORDS = ("dataset_infos.json", "dataset_info.json", "state.json")  # beside data on the hub
LONGEST_ERROR = 300  # characters
BLOCK = 4 << 20  # bytes read at a time


def is_remote(path: object) -> bool:
    """Whether a path is the address of something that is not on this machine."""
    return _scheme(str(path)) in ADVICE


def find(path: str, endings: tuple[str, ...]) -> list[str]:
    """The files for which an address stands: itself, what a glob matches, or all below it that end
    so and are not hidden. Raises InputError where there is none, or none can be reached."""
    scheme = _scheme(path)
    with _failures(path):
        try:
            names = set(_names(_system(scheme), _inner(path), endings))
        except FileNotFoundError:
            names = set()
    if not names:
        raise InputError(f"{path}: no such file, or no access to it. {ADVICE[scheme]}.")
    return sorted(f"{scheme}://{name.lstrip('/')}" for name in names)


def _names(system: Any, inner: str, endings: tuple[str, ...]) -> Iterator[str]:
    """Raises FileNotFoundError, and whatever the system raises."""
    matches = system.glob(inner) if any(mark in inner for mark in "*?[") else [inner]
    for name in matches:
        if system.info(name)["type"] != "directory":
            yield name
            continue
        for below in system.find(name):
            parts = below.removeprefix(name).strip("/").split("/")
            hidden = any(part.startswith(".") for part in parts)
            if below.lower().endswith(endings) and not hidden and parts[-1] not in NO_RECORDS:
                yield below


def reading(path: str) -> io.BufferedReader:
    """A reader of a file from its beginning. Raises OSError, also while it reads."""
    with _as_os_error():
        file = _system(_scheme(path)).open(_inner(path), "rb", block_size=BLOCK)
    return io.BufferedReader(_Reader(file), BLOCK)


def size(path: str) -> int:
    """Of a file, in bytes. Raises OSError."""
    with _as_os_error():
        return int(_system(_scheme(path)).size(_inner(path)))


def state(path: str) -> str:
    """A key that is another one when the file is. Raises OSError."""
    with _as_os_error():
        return str(_system(_scheme(path)).ukey(_inner(path)))


def _scheme(path: str) -> str:
    scheme, mark, _ = path.partition("://")
    return scheme if mark else ""


def _inner(path: str) -> str:
    return path.partition("://")[2].rstrip("/")


def _system(scheme: str) -> Any:
    return fsspec.filesystem(scheme)


@contextlib.contextmanager
def _failures(path: str) -> Iterator[None]:
    """Turn what the libraries raise into an InputError."""
    scheme = _scheme(path)
    try:
        yield
    except ImportError as error:
        raise InputError(f"{path}: {words(error)}: `{INSTALL[scheme]}`.") from None
    except Exception as error:  # of the hub, the network, or any library in between
        raise InputError(f"{path}: cannot be reached ({words(error)}). {ADVICE[scheme]}.") from None


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of the hub, the network, or any library in between
        raise OSError(words(error)) from error


def words(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST_ERROR] or type(error).__name__


class _Reader(io.RawIOBase):
    """A file elsewhere, all of whose failures are OSErrors."""

    def __init__(self, file: Any):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with _as_os_error():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
