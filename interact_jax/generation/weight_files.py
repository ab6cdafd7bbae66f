"""Versions of a model's weights on disk, for engines that are other processes.

    weights = WeightFiles("run/weights", functools.partial(model.export, dtype="bfloat16"))
    label = weights.write(params, version=3)       run/weights/v00000003-5f0c2a9b, complete

A label names a directory and, at the server, the weights from it. Its second half is drawn for each
WeightFiles, so that weights which an earlier process left in a server never pass for this one's.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interact_jax import files, places
from interact_jax.cluster import processes

PATTERN = re.compile(r"v(\d{8,})-([0-9a-f]{8})")


class WeightFiles:
    """Writes exports to one directory, which is its own; every server must see it, by this path.

    `export` writes the model files of some parameters to a directory. Of several processes each has
    such an object, and they write together.
    """

    def __init__(self, directory: Path | str, export: Callable[[Any, Path], None]):
        """Raises InputError where nothing can be written."""
        places.check_directory(f"weights of the engine, {directory}", directory)
        self.directory = Path(directory).resolve()
        self._export = export
        self._token = processes.by_first("weights' token", lambda: secrets.token_hex(4))

    def write(self, params: Any, version: int) -> str:
        """Write a version; its label. What is there under its name is complete."""
        self.directory.mkdir(parents=True, exist_ok=True)
        label = f"v{version:08d}-{self._token}"
        with self._completed(self.path(label)) as partial:
            self._export(params, partial)
        return label

    def _completed(self, place: Path) -> contextlib.AbstractContextManager[Path]:
        """A directory to write to, of which process 0 makes `place` when it is complete."""
        if processes.is_first():
            return files.whole_directory(place)
        return contextlib.nullcontext(files.unfinished(place))

    def path(self, label: str) -> Path:
        return self.directory / label

    def version_of(self, label: str) -> int | None:
        """The version that a label stands for; None for a label that is not of this object."""
        found = PATTERN.fullmatch(label)
        return int(found[1]) if found and found[2] == self._token else None

    def keep_only(self, label: str) -> None:
        """Remove all other versions, those of earlier processes and unfinished ones too."""
        for place in self.directory.iterdir():
            name = place.name.removeprefix(".").removesuffix(".partial").removesuffix(".old")
            if PATTERN.fullmatch(name) and place.name != label:
                shutil.rmtree(place, ignore_errors=True)
