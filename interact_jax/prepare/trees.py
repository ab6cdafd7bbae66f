"""Token trees of prepared data, made before any run: runs with the same settings find them.

    make_trees(tokeniser, Path("data/shop/1.0.0"), workers=8)

They are written to `trees/` in the directory, as they would be to `data.cache`. A run over several
processes needs all of them before its first step, to plan rows by their sizes.
"""

from __future__ import annotations

import logging
from pathlib import Path

from interact_jax.data.indexing import make_all
from interact_jax.data.prepared import PreparedData
from interact_jax.data.shares import Share
from interact_jax.data.stored import TREES, StoredDataset
from interact_jax.data.tokenise import Tokeniser
from interact_jax.printable import count, count_reason

log = logging.getLogger(__name__)


def make_trees(
    tokeniser: Tokeniser, directory: Path, workers: int, share: Share | None = None
) -> list[str]:
    """Make the trees of the split "train" that a run with this tokeniser needs; returns lines for
    people: what there is, and what was lost.

    `share` is that of one of several processes, each of which waits for the others. Raises
    InputError where settings and data do not match, RunStopped where the disk is full.
    """
    dataset = StoredDataset(PreparedData(directory), tokeniser, directory / TREES, workers)
    try:
        make_all(dataset, share)
        lost = [f"  {count_reason(n, reason)}" for reason, n in sorted(dataset.counts.items())]
        made = count(len(dataset), "conversation")
        return [f"token trees of {made}: {dataset.store.folder}", *lost]
    finally:
        dataset.close()
