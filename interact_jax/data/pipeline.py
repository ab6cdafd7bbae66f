"""From a file of conversations to the batches of a run, in an order that a seed fixes."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from rich.console import Console
from rich.progress import track

from interact_jax.data.chat import ChatFormat
from interact_jax.data.conversations import ReadReport, read_conversations
from interact_jax.data.encode import EncodeSettings, encode
from interact_jax.data.pack import Placed, capacity_for, fill, pack, padding
from interact_jax.data.tree import GROW, Size, Tree, split
from interact_jax.schema import Batch, Conversation, InputError

POCKET_LOGS = Path(__file__).parents[1] / "pocket" / "logs.jsonl.gz"


@dataclasses.dataclass
class Dataset:
    """All conversations of a run as trees; `trees[i]` are those of one conversation."""

    conversations: list[Conversation]
    trees: list[list[Tree]]
    interactions: list[int]  # of each conversation
    counts: collections.Counter[str]  # what was lost or cut when the conversations became tokens
    read: ReadReport

    def lines(self) -> list[str]:
        """What came through and what was lost, for people."""
        lines = [
            *self.read.lines(),
            f"{len(self.trees):,} conversations with {sum(self.interactions):,} interactions to "
            f"train on, {sum(len(t) for t in self.trees):,} token trees",
        ]
        return lines + [f"  {count:,} {reason}" for reason, count in sorted(self.counts.items())]


def load_dataset(
    path: str, format: str, chat: ChatFormat, settings: EncodeSettings, sharing: str
) -> Dataset:
    """Read conversations, encode them, grow their trees; `path` "pocket" is the shipped logs.

    Raises InputError if nothing is left.
    """
    path = str(POCKET_LOGS) if path == "pocket" else path
    conversations, report = read_conversations(path, format, settings.on_error)
    kept, trees, interactions = [], [], []
    counts: collections.Counter[str] = collections.Counter()
    for conversation in _with_progress(conversations):
        windows = encode(conversation, chat, settings, counts)
        if windows:
            kept.append(conversation)
            trees.append([tree for window in windows for tree in GROW[sharing](window)])
            interactions.append(sum(len(window) for window in windows))
    dataset = Dataset(kept, trees, interactions, counts, report)
    if not trees:
        raise InputError(
            f"{path}: no interaction is left to work on.\n" + "\n".join(dataset.lines())
        )
    return dataset


def _with_progress(conversations: Sequence[Conversation]) -> Iterable[Conversation]:
    console = Console(stderr=True)
    return track(
        conversations,
        "tokenising",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@dataclasses.dataclass(frozen=True)
class Packing:
    """The shape of every batch of a run: capacity of a row, rows, tokens of y that do not count."""

    capacity: Size
    height: int
    ignore_first: int = 0

    @classmethod
    def for_trees(
        cls, trees: Sequence[Tree], row_tokens: int, height: int, ignore_first: int = 0
    ) -> Packing:
        return cls(capacity_for(trees, row_tokens), height, ignore_first)

    def batches(self, trees: Sequence[Tree]) -> Iterator[tuple[Batch, list[Placed]]]:
        """Micro-batches that hold these trees, split where they are too large for a row."""
        parts = [part for tree in trees for part in split(tree, self.capacity)]
        rows = fill(parts, self.capacity)
        for start in range(0, len(rows), self.height):
            yield pack(
                rows[start : start + self.height], self.capacity, self.height, self.ignore_first
            )


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """What one optimiser step works on: micro-batches (numpy) and their numbers."""

    micro: list[Batch]
    interactions: int
    reply_tokens: int  # of y, EOS included
    tokens: int  # held in the three token arrays
    slots: int  # of those arrays on the device


class LogBatches:
    """Batches of a fixed set of conversations (`BatchSource` of offline training).

    Conversations come in a new random order every epoch; the order depends on the seed alone. The
    position is the number of conversations drawn so far.
    """

    def __init__(
        self, dataset: Dataset, packing: Packing, batch: Any, seed: int, epochs: float = 0
    ):
        """`batch` has `conversations` and `interactions`, one of them 0; `epochs` 0 = no end."""
        self.dataset, self.packing, self.batch = dataset, packing, batch
        count = len(dataset.trees)
        self.order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
        # Conversations of the whole run; a share of an epoch too small for one is one.
        self.total = max(1, round(epochs * count)) if epochs else None
        self.drawn = 0

    def count_steps(self) -> int:
        """How many batches are left of the epochs; the last one may be small."""
        drawn, steps = self.drawn, 0
        while indices := self._indices(drawn):
            drawn, steps = drawn + len(indices), steps + 1
        return steps

    def next(self, params: Any = None, step: int = 0) -> StepBatch:
        """The next batch. Logs depend neither on the parameters nor on the step."""
        indices = self._indices(self.drawn)
        self.drawn += len(indices)
        trees = [tree for i in indices for tree in self.dataset.trees[i]]
        micro = [batch for batch, _ in self.packing.batches(trees)]
        held, slots = np.sum([padding(batch) for batch in micro], axis=0)
        return StepBatch(
            micro=micro,
            interactions=sum(self.dataset.interactions[i] for i in indices),
            reply_tokens=sum(tree.size.R for tree in trees),
            tokens=int(held),
            slots=int(slots),
        )

    def position(self) -> dict[str, int]:
        """What a checkpoint keeps to go on from here."""
        return {"drawn": self.drawn, "conversations": len(self.dataset.trees)}

    def seek(self, position: dict[str, int]) -> None:
        """Go to a position that `position()` gave; InputError where that was in other data."""
        if position["conversations"] != len(self.dataset.trees):
            raise InputError(
                f"the run to be resumed had {position['conversations']:,} conversations, now there "
                f"are {len(self.dataset.trees):,}: its position in the data means nothing. Give "
                "data.path the data of then, or use another --workdir (with --config.start_from "
                "to continue from the parameters)."
            )
        self.drawn = position["drawn"]

    def _indices(self, drawn: int) -> list[int]:
        indices: list[int] = []
        interactions = 0
        while self.total is None or drawn + len(indices) < self.total:
            index = int(self.order[drawn + len(indices)])
            indices.append(index)
            interactions += self.dataset.interactions[index]
            if self.batch.conversations:
                if len(indices) >= self.batch.conversations:
                    break
            elif interactions >= self.batch.interactions:
                break
        return indices
