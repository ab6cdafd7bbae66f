"""From a dataset to the batches of a run, in an order that a seed fixes."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from interact_jax.data.dataset import Dataset
from interact_jax.data.examples import Target
from interact_jax.data.fingerprint import difference, fingerprint, legacy_digests
from interact_jax.data.limits import Limits, Member
from interact_jax.data.pack import Placed, padding
from interact_jax.data.rows import Packing
from interact_jax.data.tree import Tree
from interact_jax.schema import Batch, InputError
from interact_jax.settings import Setting

LOOK_AHEAD = 64  # steps that shapes are chosen for
AHEAD = 2  # batches that are packed while the device works
SETTINGS = {
    "batch.conversations": Setting(
        0, "a step's batch: so many conversations; 0 = by interactions", least=0, most=2**24
    ),
    "batch.interactions": Setting(
        32, "or whole conversations until at least so many; 0 = the other", least=0, most=2**24
    ),
    "batch.row_tokens": Setting(
        4096, "trunk length of a packed row; longer trunks make rows longer", least=1, most=2**24
    ),
    "batch.rows": Setting(1, "rows per micro-step and data shard", least=1, most=2**12, free=True),
}


class Draws:
    """Which conversations each step gets.

    Every epoch has a new random order, which depends on the seed alone. A step begins where the
    one before it ended, so the number of conversations drawn so far is all there is to remember.
    """

    def __init__(self, interactions: Sequence[int], batch: Any, seed: int, epochs: float = 0):
        """`interactions` of each conversation; `batch` has `conversations` and `interactions`, one
        of them 0; `epochs` 0 = no end."""
        self.interactions, self.batch = interactions, batch
        count = len(interactions)
        self.order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
        # Conversations of the whole run; a share of an epoch too small for one is one.
        self.total = max(1, round(epochs * count)) if epochs else None

    def step(self, drawn: int) -> list[int]:
        """The conversations of the step that begins with `drawn` drawn; none behind the end."""
        indices: list[int] = []
        interactions = 0
        while self.total is None or drawn + len(indices) < self.total:
            index = int(self.order[drawn + len(indices)])
            indices.append(index)
            interactions += self.interactions[index]
            if self.batch.conversations:
                if len(indices) >= self.batch.conversations:
                    break
            elif interactions >= self.batch.interactions:
                break
        return indices

    def steps(self, drawn: int = 0) -> Iterator[list[int]]:
        """All steps from there on; the last one may be small."""
        while indices := self.step(drawn):
            yield indices
            drawn += len(indices)

    def times(self, drawn: int) -> np.ndarray:
        """How often each conversation is among the first `drawn`: an epoch has every one once."""
        count = len(self.interactions)
        epochs, rest = divmod(drawn, count)
        last = [int(self.order[at]) for at in range(drawn - rest, drawn)]
        return epochs + np.bincount(np.array(last, np.int64), minlength=count)


def packing_for(
    dataset: Dataset,
    draws: Draws,
    row_tokens: int,
    height: int,
    ignore_first: int,
    known: Collection[str] = (),
) -> Packing:
    """Shapes for the first steps of a run; `known` as `Packing.for_trees` has it."""
    steps = (dataset.trees_of(step) for step in itertools.islice(draws.steps(), LOOK_AHEAD))
    every = dataset.trees_of(range(len(dataset.trees)))
    return Packing.for_trees(every, row_tokens, height, ignore_first, steps, known)


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """What one optimiser step works on: micro-batches (numpy) and their numbers."""

    micro: list[Batch]
    placed: list[list[Placed]]  # the examples of each micro-batch
    interactions: int
    reply_tokens: int  # of y, EOS included
    tokens: int  # held in the three token arrays
    slots: int  # of those arrays on the device
    trees: Sequence[Tree]  # what was packed,
    factor: Callable[[Target], float]  # with these factors of examples' weights
    told: dict[str, float] = dataclasses.field(default_factory=dict)  # more for the log


class BatchSource(Protocol):
    """Where batches come from: logs, rollouts, a replay of them. A run asks for nothing else."""

    def next(self, state: Any = None) -> StepBatch:
        """The next batch; logs ignore the state, rollouts are made with its policy."""

    def position(self) -> dict[str, Any]:
        """What a checkpoint keeps to go on from here."""

    def seek(self, position: dict[str, Any]) -> None:
        """Go to a position that `position()` gave."""

    def steps_left(self) -> int:
        """How many batches are left to the end, where there is one."""

    def counted(self) -> dict[str, int]:
        """How many interactions, and counted reply tokens, the batches up to here had in all."""

    def summary(self) -> list[str]:
        """What came through and what was lost, for people."""


class _Steps:
    """The steps from a position on as grain reads them: by their number, without an end."""

    def __init__(self, draws: Draws, drawn: int):
        self.draws = draws
        self.starts = [drawn]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> list[int]:
        while len(self.starts) <= number:
            self.starts.append(self.starts[-1] + len(self.draws.step(self.starts[-1])))
        return self.draws.step(self.starts[number])


class LogBatches:
    """Batches of a fixed set of conversations (`BatchSource` of offline training).

    The position is the number of conversations drawn so far. A thread packs the next AHEAD batches
    while the device works. That takes some ms for a step of some hundred trees, so processes have
    nothing to gain here: those of `data.workers` tokenise.
    """

    def __init__(
        self, dataset: Dataset, draws: Draws, packing: Packing, limits: Limits | None = None
    ):
        self.dataset, self.draws, self.packing, self.limits = dataset, draws, packing, limits
        self._fingerprint = fingerprint(dataset)
        every = range(len(dataset.trees))
        self._weights = [_weight(trees) for trees in dataset.trees]  # of each conversation
        self._of_log = limits.of_log(self._members(every)) if limits else {}
        self._go_to(0)

    def steps_left(self) -> int:
        """How many batches are left of the epochs; the last one may be small."""
        return sum(1 for _ in self.draws.steps(self.drawn))

    def counted(self) -> dict[str, int]:
        """How many interactions, and counted reply tokens, the batches up to here had in all."""
        ignored = self.packing.ignore_first
        tokens = [
            sum(max(0, len(reply.target.y) - ignored) for tree in trees for reply in tree.replies)
            for trees in self.dataset.trees
        ]
        times = self.draws.times(self.drawn)
        of_all = {"interactions": self.dataset.interactions, "reply_tokens": tokens}
        return {name: int(times @ np.array(each, np.int64)) for name, each in of_all.items()}

    def summary(self) -> list[str]:
        """What was lost or mended between the files and here."""
        read = self.dataset.read
        lost = dict(sorted((read.lost + read.mended + read.unused + self.dataset.counts).items()))
        return [f"{count:,} {reason}" for reason, count in lost.items()]

    def next(self, state: Any = None) -> StepBatch:
        """The next batch. Logs do not depend on the state.

        Raises IndexError behind the end of the epochs.
        """
        indices, batch = next(self._ahead)
        if batch is None:
            raise IndexError(f"all {self.draws.total:,} conversations of the run are drawn")
        self.drawn += len(indices)
        return batch

    def position(self) -> dict[str, Any]:
        """What a checkpoint keeps to go on from here."""
        conversations = len(self.dataset.trees)
        return {"drawn": self.drawn, "conversations": conversations, "data": self._fingerprint}

    def seek(self, position: dict[str, Any]) -> None:
        """Go to a position that `position()` gave; InputError where that was in other data."""
        if found := self._other_data(position):
            raise InputError(
                f"the run to be resumed had {found}: its position in the data means nothing. Give "
                "data.path the data of then, or use another --workdir (with --config.start_from to "
                "continue from the parameters)."
            )
        self._go_to(position["drawn"])

    def _other_data(self, position: dict[str, Any]) -> str | None:
        then, now = position["conversations"], len(self.dataset.trees)
        if then != now:
            return f"{then:,} conversations, now there are {now:,}"
        if "data" in position:
            found = difference(position["data"], self._fingerprint)
            return found and found.format(now)
        known = legacy_digests(self.dataset).items()  # a version before this one kept that, or less
        if all(position.get(name, number) == number for name, number in known):
            return None
        return f"other conversations, replies or weights, or the same {now:,} in another order"

    def _go_to(self, drawn: int) -> None:
        self.drawn = drawn
        steps = _Steps(self.draws, drawn)
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
        self._ahead = iter(grain.MapDataset.source(steps).map(self._pack).to_iter_dataset(reading))

    def _pack(self, indices: list[int]) -> tuple[list[int], StepBatch | None]:
        if not indices:  # read ahead, behind the end
            return [], None
        trees = self.dataset.trees_of(indices)
        factors: dict[str, float] = {}  # of conversations' weights
        if self.limits is not None:
            factors = self.limits.of_step(self._members(indices), self._of_log)

        def factor(target: Target) -> float:
            return factors.get(target.conversation, 1.0)

        interactions = sum(self.dataset.interactions[i] for i in indices)
        batch = step_batch(self.packing, trees, interactions, factor)
        if any(factor < 1 for factor in factors.values()):
            members = self._members(indices)
            kept = sum(weight * factors[name] for name, _, weight in members)
            limited = 1 - kept / sum(weight for *_, weight in members)
            batch = dataclasses.replace(batch, told={"limited": limited})
        return indices, batch

    def _members(self, indices: Iterable[int]) -> list[Member]:
        talks = self.dataset.conversations
        return [(talks[i].id, talks[i].user, self._weights[i]) for i in indices]


def _weight(trees: Sequence[Tree]) -> float:
    """Of all units of a conversation."""
    targets = (reply.target for tree in trees for reply in tree.replies)
    return sum({target.unit: target.weight for target in targets}.values())


def step_batch(
    packing: Packing,
    trees: Sequence[Tree],
    interactions: int,
    factor: Callable[[Target], float],
) -> StepBatch:
    """Pack the trees of a step."""
    micro, placed = zip(*packing.batches(trees, factor), strict=True)
    held, slots = np.sum([padding(batch) for batch in micro], axis=0)
    return StepBatch(
        micro=list(micro),
        placed=list(placed),
        interactions=interactions,
        reply_tokens=sum(tree.size.R for tree in trees),
        tokens=int(held),
        slots=int(slots),
        trees=trees,
        factor=factor,
    )
