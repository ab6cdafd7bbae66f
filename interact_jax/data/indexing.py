"""All trees of prepared data, made before the first step by one or several processes.

    make_all(dataset, Share(process=1, processes=4))

The processes do not talk to each other. Each makes the trees of its own conversations, every n-th
of them, and puts them into the store, in a folder that all can read and write; then it waits until
there is nothing missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from interact_jax.data.shares import Share
from interact_jax.data.stored import PORTION, StoredDataset
from interact_jax.printable import count
from interact_jax.schema import RunStopped

log = logging.getLogger(__name__)

PATIENCE = 600.0  # seconds to wait for trees of other processes
POLL = 0.2  # seconds between looks at what they have made
CHUNK = 1 << 16  # entries of the index that are looked at together
LINES = 20  # of the log


def make_all(
    dataset: StoredDataset, share: Share | None = None, patience: float = PATIENCE
) -> None:
    """Make what is missing of this process's share, and wait for that of the others.

    Raises RunStopped where nothing is added for `patience` seconds, or the disk is full.
    """
    share = share or Share()
    missing_M = _missing(dataset, share.numbers(len(dataset)))
    read, told = dataset.follow(iter(missing_M.tolist())), 0
    for start in range(0, len(missing_M), PORTION):
        portion = missing_M[start : start + PORTION].tolist()
        read(portion)
        done = start + len(portion)
        if done * LINES // len(missing_M) > told:
            told = done * LINES // len(missing_M)
            log.info("token trees: %s of %s made", f"{done:,}", f"{len(missing_M):,}")
    _wait(dataset, share, patience)


def _wait(dataset: StoredDataset, share: Share, patience: float) -> None:
    before, since = -1, time.monotonic()
    while len(left_M := _missing(dataset, range(len(dataset)))):
        if len(left_M) != before:
            before, since = len(left_M), time.monotonic()
        full = dataset.store.full
        if full or time.monotonic() - since > patience:
            numbers = ", ".join(map(str, sorted(set((left_M % share.processes).tolist()))))
            raise RunStopped(
                f"{dataset.store.folder}: {count(len(left_M), 'conversation')} of "
                f"{len(dataset):,} have no token trees, those of process {numbers} of "
                f"{share.processes}: "
                + (
                    "the disk is full. Make room, or set data.cache to a folder elsewhere."
                    if full
                    else f"none were made for {patience:.0f} s. Look at what the processes say."
                )
            )
        time.sleep(POLL)


def _missing(dataset: StoredDataset, numbers: range) -> np.ndarray:
    """Which of these conversations have no trees in the store."""
    chunks: Sequence[range] = [numbers[n : n + CHUNK] for n in range(0, len(numbers), CHUNK)]
    left = [np.array(chunk)[~dataset.store.has(chunk)] for chunk in chunks]
    return np.concatenate([np.zeros(0, np.int64), *left])
