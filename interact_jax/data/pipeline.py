"""From a dataset to the batches of a run, in an order that a seed fixes."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from interact_jax.data.dataset import Dataset, counted_tokens
from interact_jax.data.fingerprint import DIFFERENCES, difference, legacy_digests
from interact_jax.data.forest import Forest
from interact_jax.data.limits import Limits, Member, removed_share
from interact_jax.data.order import Order
from interact_jax.data.pack import Places, padding
from interact_jax.data.rows import Packing
from interact_jax.data.tree import Size, Tree
from interact_jax.printable import count, count_reason
from interact_jax.schema import Batch, InputError
from interact_jax.settings import Setting

LOOK_AHEAD = 64  # steps for which shapes are chosen
AHEAD = 2  # batches that are packed while the device works
SETTINGS = {
    "batch.conversations": Setting(
        0, "conversations in a step's batch; 0 = batch.interactions decides", least=0, most=2**24
    ),
    "batch.interactions": Setting(
        32,
        "interactions in a step's batch: whole conversations are added until there are at "
        "least this many; 0 = batch.conversations decides",
        least=0,
        most=2**24,
    ),
    "batch.row_tokens": Setting(
        4096,
        "length of a packed row, in tokens of its trunks; longer trunks make longer rows",
        least=1,
        most=2**24,
    ),
    "batch.rows": Setting(
        1, "rows in a micro-batch, per data shard", least=1, most=2**12, free=True
    ),
}


TOTALS = ("interactions", "reply_tokens")
Read = Callable[[Sequence[int]], Sequence[Sequence[Tree]]]


class Draws:
    """Which conversations each step gets.

    Every epoch has an order of its own (`Order`). A step begins where the previous one ended, so
    the only state is the number of conversations drawn so far.
    """

    def __init__(
        self, interactions: Sequence[int] | np.ndarray, batch: Any, seed: int, epochs: float = 0
    ):
        """`interactions` of each conversation; `batch` has `conversations` and `interactions`, one
        of them 0; `epochs=0` means no end."""
        self.interactions, self.batch = interactions, batch
        count = len(interactions)
        self.order = Order(count, seed)
        # Conversations of the whole run, at least one.
        self.total = max(1, round(epochs * count)) if epochs else None

    def step(self, drawn: int) -> list[int]:
        """The conversations of the step after the first `drawn`; none after the end."""
        indices: list[int] = []
        interactions = 0
        while self.total is None or drawn + len(indices) < self.total:
            index = self.order[drawn + len(indices)]
            indices.append(index)
            interactions += self.interactions[index]
            if self.batch.conversations:
                if len(indices) >= self.batch.conversations:
                    break
            elif interactions >= self.batch.interactions:
                break
        return indices

    def indices(self, drawn: int = 0) -> Iterator[int]:
        """All conversations from there on."""
        numbers = itertools.count(drawn) if self.total is None else range(drawn, self.total)
        return (self.order[n] for n in numbers)

    def steps(self, drawn: int = 0) -> Iterator[list[int]]:
        """All steps from there on; the last one may be smaller."""
        while indices := self.step(drawn):
            yield indices
            drawn += len(indices)

    def times(self, drawn: int) -> np.ndarray:
        """How often each conversation is among the first `drawn`: every epoch has each once."""
        count = len(self.interactions)
        epochs, rest = divmod(drawn, count)
        last = [self.order[at] for at in range(drawn - rest, drawn)]
        return epochs + np.bincount(np.array(last, np.int64), minlength=count)


class Data(Protocol):
    """What batches are made of: conversations by number, all in memory (`dataset.Dataset`) or read
    as they are drawn (`stored.StoredDataset`)."""

    @property
    def interactions(self) -> Sequence[int] | np.ndarray:
        """Of each conversation."""

    @property
    def users(self) -> np.ndarray:
        """Of each conversation, "" or 0 where nobody is named."""

    @property
    def weights(self) -> np.ndarray:
        """Of each conversation."""

    @property
    def prints(self) -> dict[str, str]:
        """Digests of all that is learned, as `fingerprint`."""

    def __len__(self) -> int: ...

    def trees_of(self, indices: Sequence[int]) -> Sequence[Tree]:
        """The trees of these conversations."""

    def members(self, indices: Sequence[int], trees: Sequence[Sequence[Tree]]) -> list[Member]:
        """These conversations, whose trees are at hand, as `Limits` sees them."""

    def follow(self, order: Iterator[int]) -> Read:
        """A function that returns the trees of the next conversations of `order`."""

    def summary(self) -> Mapping[str, int]:
        """Everything that was lost or mended, by reason."""


def packing_for(
    dataset: Data,
    draws: Draws,
    row_tokens: int,
    height: int,
    ignore_first: int,
    known: Collection[str] = (),
) -> Packing:
    """Shapes for the first steps of a run; `known` as in `Packing.for_trees`."""
    drawn = list(itertools.islice(draws.steps(), LOOK_AHEAD))
    steps = [dataset.trees_of(step) for step in drawn]
    trees: Sequence[Tree]
    if isinstance(dataset, Dataset):
        trees = dataset.trees_of(range(len(dataset)))
    else:  # `LogBatches` widens rows for what is larger than all of these
        trees = dataset.trees_of([i for step in drawn for i in step])
    return Packing.for_trees(trees, row_tokens, height, ignore_first, steps, known)


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """What one optimiser step works on: micro-batches (numpy) and their numbers."""

    micro: list[Batch]
    placed: list[Places]  # the examples of each micro-batch
    interactions: int
    reply_tokens: int  # of y, EOS included
    tokens: int  # in the three token arrays
    slots: int  # of these arrays on the device
    trees: Forest  # the packed trees
    packing: Packing  # of their rows
    factor_M: np.ndarray | None = None  # for the weights of their replies
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)  # more values for the log


class BatchSource(Protocol):
    """Where batches come from: logs, rollouts, a replay of them. A run needs nothing else."""

    def next(self, state: Any = None) -> StepBatch:
        """The next batch; logs ignore the state, rollouts use its policy."""

    def position(self) -> dict[str, Any]:
        """What a checkpoint stores in order to continue from here."""

    def seek(self, position: dict[str, Any]) -> None:
        """Go to a position that `position()` returned."""

    def steps_left(self) -> int:
        """How many batches are left, where there is an end."""

    def totals(self) -> dict[str, int]:
        """How many interactions and counted reply tokens all batches up to here had."""

    def summary(self) -> list[str]:
        """What was read and what was lost, for people."""


def check_position(
    dataset: Data,
    position: Mapping[str, Any],
    parts: Collection[str] = tuple(DIFFERENCES),
    prints: Mapping[str, str] | None = None,
) -> None:
    """Raise InputError where a position of `LogBatches` is one in other data, as far as these parts
    of the fingerprint show; `prints` is the dataset's, if it is known already."""
    if change := _data_change(dataset, position, parts, prints):
        raise InputError(
            f"the run to be resumed had {change}: its position in the data means nothing. Set "
            "data.path to the data of that run, or use another --workdir (with "
            "--config.start_from to continue from the parameters)."
        )


def _data_change(
    dataset: Data,
    position: Mapping[str, Any],
    parts: Collection[str],
    prints: Mapping[str, str] | None,
) -> str | None:
    """In words, how the data of a position differ from these; None where they do not."""
    then, now = position["conversations"], len(dataset)
    if then != now:
        return f"{count(then, 'conversation')}, now there {'is' if now == 1 else 'are'} {now:,}"
    if "data" in position:
        change = difference(position["data"], prints or dataset.prints, parts)
        return change and change.format(now)
    known = legacy_digests(dataset).items()  # earlier versions stored these, or fewer
    if all(position.get(name, number) == number for name, number in known):
        return None
    return f"other conversations, replies or weights, or the same {now:,} in another order"


class _Steps:
    """The steps from a position on, as grain reads them: by number, without an end."""

    def __init__(self, draws: Draws, drawn: int):
        self.draws = draws
        self.starts = [drawn]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> list[int]:
        while len(self.starts) <= number:
            self.starts.append(self.starts[-1] + len(self.draws.step(self.starts[-1])))
        step = self.draws.step(self.starts[number])
        if len(self.starts) == number + 1:
            self.starts.append(self.starts[number] + len(step))
        return step


class LogBatches:
    """Batches of a fixed set of conversations (`BatchSource` of offline training).

    The position is the number of conversations drawn so far. A thread packs the next AHEAD batches
    while the device works. That takes a few ms for a step of some hundred trees, so processes would
    gain nothing here: those of `data.workers` tokenise.
    """

    def __init__(self, dataset: Data, draws: Draws, packing: Packing, limits: Limits | None = None):
        self.dataset, self.draws, self.packing, self.limits = dataset, draws, packing, limits
        self._fingerprint = dataset.prints
        self._log_factors = np.ones(len(dataset))
        if limits is not None:
            self._log_factors = limits.log_factors(dataset.users, dataset.weights)
        self._passed = dict.fromkeys(TOTALS, 0)  # by all batches up to here
        self._go_to(0)

    def steps_left(self) -> int:
        """How many batches are left of the epochs; the last one may be smaller."""
        return sum(1 for _ in self.draws.steps(self.drawn))

    def totals(self) -> dict[str, int]:
        """How many interactions and counted reply tokens all batches up to here had."""
        if isinstance(self.dataset, Dataset):
            return self.dataset.totals(self.draws.times(self.drawn), self.packing.ignore_first)
        return dict(self._passed)

    def summary(self) -> list[str]:
        """What was lost or mended on the way from the files to here."""
        lost = sorted(self.dataset.summary().items())
        return [count_reason(times, reason) for reason, times in lost]

    def next(self, state: Any = None) -> StepBatch:
        """The next batch. Logs do not depend on the state.

        Raises IndexError after the end of the epochs.
        """
        indices, batch = next(self._ahead)
        if batch is None:
            raise IndexError(f"all {self.draws.total:,} conversations of the run are drawn")
        self.drawn += len(indices)
        self.packing = batch.packing
        counted = counted_tokens(batch.trees, self.packing.ignore_first)
        for name, number in zip(TOTALS, (batch.interactions, counted), strict=True):
            self._passed[name] += number
        return batch

    def position(self) -> dict[str, Any]:
        """What a checkpoint stores in order to continue from here."""
        conversations = len(self.dataset)
        place = {"drawn": self.drawn, "conversations": conversations, "data": self._fingerprint}
        if isinstance(self.dataset, Dataset):
            return place
        return place | {"full": list(self.packing.full.counts()), "totals": self.totals()}

    def seek(self, position: dict[str, Any]) -> None:
        """Go to a position that `position()` returned; InputError if that was in other data."""
        check_position(self.dataset, position, prints=self._fingerprint)
        if not isinstance(self.dataset, Dataset):
            self.packing = dataclasses.replace(self.packing, full=Size(*position["full"]))
            self._passed = dict(position["totals"])
        self._go_to(position["drawn"])

    def _go_to(self, drawn: int) -> None:
        self.drawn = drawn
        steps = _Steps(self.draws, drawn)
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
        # With a place in the data of its own: a thread that packs for an earlier position, and has
        # not ended yet, goes on from there.
        packer = _Packer(self, self.dataset.follow(self.draws.indices(drawn)))
        batches = grain.MapDataset.source(steps).map(packer.pack)
        self._ahead = iter(batches.to_iter_dataset(reading))

    def step_factors(self, indices: Sequence[int], members: Sequence[Member]) -> dict[str, float]:
        """The factors for the weights of these conversations in a step of their own."""
        if self.limits is None:
            return {}
        names = (name for name, *_ in members)
        log_factors = {n: float(self._log_factors[i]) for n, i in zip(names, indices, strict=True)}
        return self.limits.step_factors(members, log_factors)


class _Packer:
    """Packs the steps from a position on, in order."""

    def __init__(self, source: LogBatches, read: Read):
        self.source, self.read, self.packing = source, read, source.packing

    def pack(self, indices: list[int]) -> tuple[list[int], StepBatch | None]:
        if not indices:  # read ahead, after the end
            return [], None
        dataset = self.source.dataset
        of_each = [Forest.of(of_one) for of_one in self.read(indices)]
        trees = Forest.join(of_each)
        if not trees:
            raise InputError(
                f"nothing can be used of the {count(len(indices), 'conversation')} of a step. Set "
                "batch.interactions higher, or leave such conversations out. What was lost so far: "
                + "; ".join(self.source.summary())
            )
        if not isinstance(dataset, Dataset):
            self.packing = self.packing.widened(trees)
        members = dataset.members(indices, of_each) if self.source.limits else []
        factors = self.source.step_factors(indices, members)
        # Every reply of a conversation has its factor.
        names = [forest.facts.conversation for forest in of_each]
        replies = [len(forest.replies_MxC) for forest in of_each]
        factor_M = np.repeat([factors.get(name, 1.0) for name in names], replies)
        # A conversation that is drawn twice counts once.
        once = len(set(names)) == len(names)
        units = sum(of_one.facts.units for of_one in of_each) if once else trees.facts.units
        batch = step_batch(self.packing, trees, units, factor_M)
        if any(factor < 1 for factor in factors.values()):
            limited = removed_share(members, factors)
            batch = dataclasses.replace(batch, metrics={"limited": limited})
        return indices, batch


def step_batch(
    packing: Packing,
    trees: Forest,
    interactions: int,
    factor_M: np.ndarray | None = None,
) -> StepBatch:
    """Pack the trees of a step; `factor_M` multiplies the weights of their replies."""
    micro, placed = zip(*packing.batches(trees, factor_M), strict=True)
    held, slots = np.sum([padding(batch) for batch in micro], axis=0)
    return StepBatch(
        micro=list(micro),
        placed=list(placed),
        interactions=interactions,
        reply_tokens=int(trees.sizes_Nx5[:, 3].sum()),
        tokens=int(held),
        slots=int(slots),
        trees=trees,
        packing=packing,
        factor_M=factor_M,
    )
