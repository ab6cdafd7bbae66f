"""From a dataset to the batches of a run, in an order that a seed fixes."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import grain
import jax
import numpy as np

from interact_jax.cluster import processes
from interact_jax.data.dataset import Dataset, counted_tokens
from interact_jax.data.draws import Draws, Place
from interact_jax.data.first_steps import as_lines, first_trees, nothing_usable
from interact_jax.data.forest import Forest
from interact_jax.data.limits import Limits, Member, removed_share
from interact_jax.data.mixed import MixedDataset
from interact_jax.data.pack import Places, padding
from interact_jax.data.positions import check_position
from interact_jax.data.reading import Data, Stored
from interact_jax.data.rows import Packing
from interact_jax.data.shares import Share, Views, pack_share
from interact_jax.data.tree import Size
from interact_jax.printable import count
from interact_jax.schema import Batch, RunStopped
from interact_jax.settings import Setting

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


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """What one optimiser step works on: micro-batches (numpy) and their numbers, which are those of
    all rows, also where the micro-batches have those of some shards alone."""

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
    held: tuple[int, ...] | None = None  # the shards whose rows are here; None: all

    def of_share(self, share: Share) -> StepBatch:
        """The same with the rows of a share alone."""
        own = share.rows(self.packing.height)
        micro = [jax.tree.map(lambda x: x[own], batch) for batch in self.micro]
        return dataclasses.replace(self, micro=micro, held=share.held)


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


class LogBatches:
    """Batches of a fixed set of conversations (`BatchSource` of offline training).

    The position is how many conversations of each data set have been drawn. A thread packs the next
    AHEAD batches while the device works. That takes a few ms for a step of some hundred trees, so
    processes would gain nothing here: those of `data.workers` tokenise.

    A step of which nothing can be used is left out, and the run makes up for it: how many steps it
    has depends on `draws` alone, so where some were left out (`owed`), it goes on behind its end.
    """

    def __init__(
        self,
        dataset: Data,
        draws: Draws,
        packing: Packing,
        limits: Limits | None = None,
        share: Share | None = None,
    ):
        """`share` is that of one of several processes: its batches have its rows, and the numbers
        of all. Of `reading.Stored`, all of whose trees are in stores, it reads no more than that.
        """
        self.dataset, self.draws, self.packing, self.limits = dataset, draws, packing, limits
        self.share = share
        self._fingerprint = dataset.prints
        self._log_factors = _Factors(np.ones(1), np.zeros(len(dataset), np.uint8))
        if limits is not None:
            self._log_factors = _Factors.of(limits.log_factors(dataset.users, dataset.weights))
        # Files of logs are read by every process, and so is what is lost of them.
        self.reads_share = share is not None and not isinstance(dataset, Dataset)
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
        """What was lost or mended on the way from the files to here, and how much was read. Where
        each process counts what it reads, all have to ask for it."""
        lost = collections.Counter(self.dataset.summary())
        if self.reads_share:
            each = processes.exchange("losses", json.dumps(lost), processes.LONG_SECONDS)
            lost = sum((collections.Counter(json.loads(own)) for own in each), start=lost - lost)
        lines = as_lines(lost)
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
        for name, number in zip(TOTALS, (batch.interactions, packed.counted), strict=True):
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

    @functools.cached_property
    def views(self) -> Views:
        """The views of the run's replies, as far as its first step shows."""
        return Views.of(first_trees(self.dataset, self.draws))

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
    counted: int = 0  # reply tokens that count


class _Packer:
    """Packs the steps from a place on, in order."""

    def __init__(self, source: LogBatches, place: Place, owed: int):
        self.source, self.draws, self.packing = source, source.draws, source.packing
        self.place, self.owed = place, owed
        self._follow(self.draws.total)

    def _follow(self, end: int | None) -> None:
        self.end = end
        if not self.source.reads_share:
            self.read = self.source.dataset.follow(*self.draws.course.rest(self.place, end))

    def pack(self, _: int) -> _Packed:
        """The next batch, which grain asks for by its number, one after the other."""
        source, left_out, tried = self.source, 0, 0
        while indices := self._next_step():
            self.place = self.draws.course.after(self.place, indices)
            make = self._share if source.reads_share else self._batch
            batch, counted = make(indices)
            if batch is not None:
                return _Packed(batch, self.place, self.owed, left_out, counted)
            left_out, tried = left_out + 1, tried + len(indices)
            self.owed += self.draws.total is not None
            if tried >= len(source.dataset):
                raise nothing_usable(tried, source.dataset)
        return _Packed(None, self.place, self.owed, left_out)  # read ahead, after the end

    def _next_step(self) -> list[int]:
        indices = self.draws.step(self.place)
        if not indices and self.owed:
            self.owed -= 1
            indices = self.draws.step(self.place, beyond=True)
            if self.end is not None:
                self._follow(None)
        return indices

    def _batch(self, indices: list[int]) -> tuple[StepBatch | None, int]:
        """A step, and how many of its reply tokens count; None where nothing of it can be used."""
        dataset = self.source.dataset
        of_each = [Forest.of(of_one) for of_one in self.read(indices)]
        if not any(map(len, of_each)):
            return None, 0
        trees = Forest.join(of_each)
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
        batch = dataclasses.replace(batch, metrics=_limited(members, factors))
        if self.source.share is not None:
            batch = batch.of_share(self.source.share)
        return batch, counted_tokens(trees, self.packing.ignore_first)

    def _share(self, indices: list[int]) -> tuple[StepBatch | None, int]:
        """As `_batch`, of the share of a process: sizes alone are known of the rest."""
        source, dataset = self.source, cast(Stored, self.source.dataset)
        assert source.share is not None
        trees, sizes = dataset.trees_of(indices), dataset.sizes(indices)
        if sizes is None:
            raise RunStopped(
                "trees are not kept, since the disk is full: several processes need all of them. "
                "Make room in data.cache."
            )
        # What is lost of a conversation is counted by one process: of the useless ones by that
        # with its number, of the others by that in whose rows they begin, since it reads them.
        useless = [i for i, n in zip(indices, sizes.trees_C, strict=True) if not n]
        own = [i for i in useless if i in source.share.numbers(len(dataset))]
        dataset.forests_of(own, own)
        if not len(trees):
            dataset.count_elsewhere(indices)
            return None, 0
        first = {i: place for place, i in reversed(list(enumerate(indices)))}

        def read(places: Sequence[int], counted: Collection[int]) -> Sequence[Forest]:
            # A conversation that is drawn twice counts once.
            once = {indices[place] for place in counted if first[indices[place]] == place}
            return dataset.forests_of([indices[place] for place in places], once)

        self.packing = self.packing.widened(trees)
        of_tree = np.repeat(np.arange(len(indices)), sizes.trees_C).tolist()
        names = [str(i) for i in indices]  # no two conversations of the data have one number
        users = [str(dataset.users[i] or "") for i in indices]
        members = list(zip(names, users, sizes.weight_C.tolist(), strict=True))
        factors = source.step_factors(indices, members if source.limits else [])
        step = pack_share(
            source.share,
            self.packing,
            trees,
            of_tree,
            read,
            lambda place: factors.get(names[place], 1.0),
            source.views,
        )
        dataset.count_elsewhere(indices)
        units_of = dict(zip(indices, sizes.units_C.tolist(), strict=True))
        units, tokens = sum(units_of.values()), int(sizes.trees_Nx5[:, 3].sum())
        batch = StepBatch(
            micro=step.micro,
            placed=step.placed,
            interactions=units,
            reply_tokens=tokens,
            tokens=step.tokens,
            slots=step.slots,
            trees=step.trees,
            packing=self.packing,
            factor_M=step.factor_M,
            metrics=_limited(members, factors),
            held=source.share.held,
        )
        # Near enough: a reply may be shorter than what is left out of each.
        return batch, max(0, tokens - self.packing.ignore_first * int(sizes.units_C.sum()))


def _limited(members: Sequence[Member], factors: Mapping[str, float]) -> dict[str, float]:
    """How much weight the factors take away, for the log."""
    if not any(factor < 1 for factor in factors.values()):
        return {}
    return {"limited": removed_share(members, factors)}


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
