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
from interact_jax.data.draws import Draws, Place
from interact_jax.data.fingerprint import DIFFERENCES, difference, legacy_digests
from interact_jax.data.forest import Forest
from interact_jax.data.limits import Limits, Member, removed_share
from interact_jax.data.mixture import MixedDataset
from interact_jax.data.pack import Places, padding
from interact_jax.data.rows import Packing
from interact_jax.data.tree import Size, Tree
from interact_jax.printable import count, count_reason
from interact_jax.schema import Batch, InputError
from interact_jax.settings import Setting

LOOK_AHEAD = 64  # steps for which shapes are chosen
AHEAD = 2  # batches that are packed while the device works
SHOWN = 1000  # conversations whose losses are told where nothing can be used
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

    def follow(self, *orders: Iterator[int]) -> Read:
        """A function that returns the trees of the next conversations: `orders` has the numbers of
        those of each data set, in it."""

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
    """Shapes for the first steps of a run; `known` as in `Packing.for_trees`. Raises InputError
    where nothing can be used."""
    usable = list(itertools.islice(_usable_steps(dataset, draws), LOOK_AHEAD))
    steps = [trees for _, trees in usable]
    trees: Sequence[Tree]
    if isinstance(dataset, Dataset):
        trees = dataset.trees_of(range(len(dataset)))
    else:  # `LogBatches` widens rows for what is larger than all of these
        trees = dataset.trees_of([i for step, _ in usable for i in step])
    return Packing.for_trees(trees, row_tokens, height, ignore_first, steps, known)


def first_trees(dataset: Data, draws: Draws) -> Sequence[Tree]:
    """The trees of a run's first step. Raises InputError where nothing can be used."""
    return next(_usable_steps(dataset, draws))[1]


def _usable_steps(dataset: Data, draws: Draws) -> Iterator[tuple[list[int], Sequence[Tree]]]:
    """Each step of which something can be used, and its trees. Where nothing can be used of any
    step of the run, those after its end are looked at, too."""
    course = draws.course
    place, tried, found = course.start, list[int](), False
    while step := draws.step(place) or ([] if found else draws.step(place, beyond=True)):
        place = course.after(place, step)
        if trees := dataset.trees_of(step):
            found = True
            yield step, trees
        elif not found:
            tried += step
            if len(tried) >= len(dataset):
                dataset.follow(*course.rest(course.start))(tried[:SHOWN])  # counts what is lost
                raise _nothing_usable(len(tried), dataset)


def _nothing_usable(tried: int, dataset: Data) -> InputError:
    lost = "; ".join(_lost(dataset)) or "nothing, there is nothing to learn from in them"
    return InputError(
        f"nothing can be used of {count(tried, 'conversation')} in a row, a whole epoch. Look at "
        f"the settings by which they are lost, or at the data. What was lost so far: {lost}."
    )


def _lost(dataset: Data) -> list[str]:
    return [count_reason(times, reason) for reason, times in sorted(dataset.summary().items())]


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
            "data.path, or data.mixture, to the data of that run, or use another --workdir (with "
            "--config.start_from to continue from the parameters)."
        )


def _data_change(
    dataset: Data,
    position: Mapping[str, Any],
    parts: Collection[str],
    prints: Mapping[str, str] | None,
) -> str | None:
    """In words, how the data of a position differ from these; None where they do not."""
    if isinstance(dataset, MixedDataset):
        if "mixture" not in position:
            return "one data set, not a mixture of them"
        return dataset.change(position["mixture"], parts)
    if "mixture" in position:
        return "a mixture of data sets"
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


class LogBatches:
    """Batches of a fixed set of conversations (`BatchSource` of offline training).

    The position is how many conversations of each data set have been drawn. A thread packs the next
    AHEAD batches while the device works. That takes a few ms for a step of some hundred trees, so
    processes would gain nothing here: those of `data.workers` tokenise.

    A step of which nothing can be used is left out, and the run makes up for it: how many steps it
    has depends on `draws` alone, so where some were left out (`owed`), it goes on behind its end.
    """

    def __init__(self, dataset: Data, draws: Draws, packing: Packing, limits: Limits | None = None):
        self.dataset, self.draws, self.packing, self.limits = dataset, draws, packing, limits
        self._fingerprint = dataset.prints
        self._log_factors = _Factors(np.ones(1), np.zeros(len(dataset), np.uint8))
        if limits is not None:
            self._log_factors = _Factors.of(limits.log_factors(dataset.users, dataset.weights))
        self._passed = dict.fromkeys(TOTALS, 0)  # by all batches up to here
        self._left_out = 0  # steps
        self._go_to(draws.course.start)

    @property
    def drawn(self) -> int:
        """How many conversations have been drawn."""
        return sum(self.place)

    def steps_left(self) -> int:
        """How many batches are left of the epochs; the last one may be smaller."""
        return self.draws.steps_left(self.place) + self.owed

    def totals(self) -> dict[str, int]:
        """How many interactions and counted reply tokens all batches up to here had."""
        if isinstance(self.dataset, Dataset):
            return self.dataset.totals(self.draws.times(self.place), self.packing.ignore_first)
        return dict(self._passed)

    def summary(self) -> list[str]:
        """What was lost or mended on the way from the files to here, and how much was read."""
        lines = _lost(self.dataset)
        if self._left_out:
            steps = count(self._left_out, "step")
            lines.append(f"{steps} replaced by the next ones: nothing of them can be used")
        if isinstance(self.dataset, MixedDataset):
            lines += self.dataset.read_lines(self.place)
        return lines

    def next(self, state: Any = None) -> StepBatch:
        """The next batch. Logs do not depend on the state.

        Raises IndexError after the end of the epochs.
        """
        packed = next(self._ahead)
        batch = packed.batch
        if batch is None:
            raise IndexError(f"all {self.draws.total:,} conversations of the run are drawn")
        self.place, self.owed = packed.place, packed.owed
        self._left_out += packed.left_out
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
        place |= {"full": list(self.packing.full.counts()), "totals": self.totals()}
        if isinstance(self.dataset, MixedDataset):
            place["mixture"] = self.dataset.position(self.place, self.draws.course.since)
        return place | ({"owed": self.owed} if self.owed else {})

    def seek(self, position: dict[str, Any]) -> None:
        """Go to a position that `position()` returned; InputError if that was in other data. The
        weights of a mixture, and its data sets, may be others than they were."""
        check_position(self.dataset, position, prints=self._fingerprint)
        place: Place = (position["drawn"],)
        if not isinstance(self.dataset, Dataset):
            self.packing = dataclasses.replace(self.packing, full=Size(*position["full"]))
            self._passed = dict(position["totals"])
        if isinstance(self.dataset, MixedDataset):
            place, since = self.dataset.place_of(position["mixture"])
            self.draws = self.draws.counted_from(since)
        self._go_to(place, position.get("owed", 0))

    def _go_to(self, place: Place, owed: int = 0) -> None:
        self.place, self.owed = place, owed
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
        # With a place in the data of its own: a thread that packs for an earlier position, and has
        # not ended yet, goes on from there.
        packer = _Packer(self, place, owed)
        batches = grain.MapDataset.range(sys.maxsize).map(packer.pack)
        self._ahead: Iterator[_Packed] = iter(batches.to_iter_dataset(reading))

    def step_factors(self, indices: Sequence[int], members: Sequence[Member]) -> dict[str, float]:
        """The factors for the weights of these conversations in a step of their own."""
        if self.limits is None:
            return {}
        names = (name for name, *_ in members)
        log_factors = {n: self._log_factors[i] for n, i in zip(names, indices, strict=True)}
        return self.limits.step_factors(members, log_factors)


@dataclasses.dataclass(frozen=True)
class _Factors:
    """A factor of each conversation. Few of them differ, so each takes a byte or two."""

    different: np.ndarray
    number_N: np.ndarray

    @classmethod
    def of(cls, factor_N: np.ndarray) -> _Factors:
        different, number_N = np.unique(factor_N, return_inverse=True)
        return cls(different, number_N.astype(np.min_scalar_type(len(different))))

    def __getitem__(self, index: int) -> float:
        return float(self.different[self.number_N[index]])


@dataclasses.dataclass(frozen=True)
class _Packed:
    """A batch, or None after the end; the place behind it; and how many steps before it were left
    out, and how many of all of these the run still owes."""

    batch: StepBatch | None
    place: Place
    owed: int
    left_out: int


class _Packer:
    """Packs the steps from a place on, in order."""

    def __init__(self, source: LogBatches, place: Place, owed: int):
        self.source, self.draws, self.packing = source, source.draws, source.packing
        self.place, self.owed = place, owed
        self._follow(self.draws.total)

    def _follow(self, end: int | None) -> None:
        self.end = end
        self.read = self.source.dataset.follow(*self.draws.course.rest(self.place, end))

    def pack(self, _: int) -> _Packed:
        """The next batch, which grain asks for by its number, one after the other."""
        dataset, left_out, tried = self.source.dataset, 0, 0
        while indices := self._next_step():
            read = self.read(indices)
            self.place = self.draws.course.after(self.place, indices)
            if any(map(len, read)):
                return _Packed(self._batch(indices, read), self.place, self.owed, left_out)
            left_out, tried = left_out + 1, tried + len(indices)
            self.owed += self.draws.total is not None
            if tried >= len(dataset):
                raise _nothing_usable(tried, dataset)
        return _Packed(None, self.place, self.owed, left_out)  # read ahead, after the end

    def _next_step(self) -> list[int]:
        indices = self.draws.step(self.place)
        if not indices and self.owed:
            self.owed -= 1
            indices = self.draws.step(self.place, beyond=True)
            if self.end is not None:
                self._follow(None)
        return indices

    def _batch(self, indices: list[int], read: Sequence[Sequence[Tree]]) -> StepBatch:
        dataset = self.source.dataset
        of_each = [Forest.of(of_one) for of_one in read]
        trees = Forest.join(of_each)
        if not isinstance(dataset, Dataset):
            self.packing = self.packing.widened(trees)
        members = dataset.members(indices, of_each) if self.source.limits else []
        factors = self.source.step_factors(indices, members)
        # Every reply of a conversation has its factor.
        names = [forest.conversation for forest in of_each]
        replies = [len(forest.replies_MxC) for forest in of_each]
        factor_M = np.repeat([factors.get(name, 1.0) for name in names], replies)
        # A conversation that is drawn twice counts once.
        once = len(set(names)) == len(names)
        units = sum(forest.units for forest in of_each) if once else trees.units
        batch = step_batch(self.packing, trees, units, factor_M)
        if any(factor < 1 for factor in factors.values()):
            limited = removed_share(members, factors)
            batch = dataclasses.replace(batch, metrics={"limited": limited})
        return batch


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
