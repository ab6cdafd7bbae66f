"""Conversations as tf.Examples in ArrayRecord files, without TensorFlow.

The features are FEATURES: `conversation` is the whole of it, as JSON in the native format, and the
others repeat what one may want to select by. TFDS has the message types of tf.Example.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import zlib
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from interact_jax.data.native import from_record, to_record
from interact_jax.schema import Conversation, InputError

FEATURES = {
    "id": "text",
    "user": "text",
    "source": "text",
    "interactions": "int32",
    "messages": "int32",
    "conversation": "text",
}
ONE_BY_ONE = "group_size:1"  # records of a group are read together: so each can be read alone
IN_ORDER = "group_size:64,snappy"  # of files that are read once, from front to back
RANDOM_ACCESS: dict[str, Any] = {
    "options": "readahead_buffer_size:0,max_parallelism:0",
    "file_reader_buffer_size": 1 << 15,
}
LONE = "surrogatepass"  # text from JSON may have halves of characters


# ------------------------------------------------------------------------------------- examples


def encode(conversation: Conversation, interactions: int) -> bytes:
    """A conversation as a serialised tf.Example; the same bytes for the same conversation."""
    example = _example()()
    features = example.features.feature
    for name in ("id", "user", "source"):
        features[name].bytes_list.value.append(getattr(conversation, name).encode("utf-8", LONE))
    features["interactions"].int64_list.value.append(interactions)
    features["messages"].int64_list.value.append(len(conversation.messages))
    features["conversation"].bytes_list.value.append(_text_of(to_record(conversation)))
    return example.SerializeToString(deterministic=True)


@functools.cache
def _example() -> Any:
    """The class of tf.Example: most programs read none, and TFDS takes a while to import."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example


def checksum_of(example: bytes) -> int:
    """By which a record is known to be that which was written; never 0."""
    return zlib.crc32(example) or 1


def _text_of(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(record).encode()


def decode(data: bytes, where: str) -> Conversation:
    """The conversation that `encode` made an example of. Raises InputError for anything else."""
    example = _example()
    try:
        features = example.FromString(data).features.feature
        record = json.loads(features["conversation"].bytes_list.value[0])
        source = features["source"].bytes_list.value[0].decode("utf-8", LONE)
    except Exception as error:  # protobuf has errors of its own
        raise InputError(
            f"{where}: not an example with a conversation ({type(error).__name__}: {error})."
        ) from error
    return dataclasses.replace(from_record(record, where), source=source)


# ------------------------------------------------------------------------------------- files


def reader_of(file: str | Path, options: dict[str, Any] | None = None) -> Any:
    """An ArrayRecordReader, by default for random access. Raises InputError."""
    if not os.path.isfile(file):
        raise InputError(f"{file}: there is no such file. Prepare the data again, or copy it.")
    try:
        return ArrayRecordReader(str(file), **(RANDOM_ACCESS if options is None else options))
    except RuntimeError as error:
        raise InputError(f"{file}: damaged ({_short(error)}). Copy or prepare it again.") from None


def read(reader: Any, indices: list[int], file: str | Path) -> list[bytes]:
    """Records of an open file by their number, from 0. Raises InputError, which names a damaged
    one."""
    try:
        return list(reader.read(indices))
    except (RuntimeError, IndexError, ValueError) as error:
        for index in indices:
            try:
                reader.read([index])
            except (RuntimeError, IndexError, ValueError) as one:
                raise InputError(
                    f"{file}, record {index}: damaged ({_short(one)}). Copy or prepare it again."
                ) from None
        raise InputError(f"{file}: damaged ({_short(error)}). Copy or prepare it again.") from None


def _short(error: Exception) -> str:
    return str(error).strip().partition(";")[0][:200]


class Writer:
    """Writes an ArrayRecord file; what is wrong with the disk is raised as an OSError."""

    def __init__(self, file: Path, options: str = ONE_BY_ONE):
        self._file, self.count = file, 0
        self._writer = self._call(ArrayRecordWriter, str(file), options)

    def write(self, record: bytes) -> None:
        self._call(self._writer.write, record)
        self.count += 1

    def close(self) -> None:
        self._call(self._writer.close)

    def _call(self, function: Any, *given: Any) -> Any:
        try:
            return function(*given)
        except RuntimeError as error:
            codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
            for code in codes:
                if os.strerror(code) in str(error):
                    raise OSError(code, os.strerror(code), str(self._file)) from error
            raise
