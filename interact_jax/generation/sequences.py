"""The sequences that a sampler works on, and the arrays that the steps on the devices take of them.

Arrays are [shards, rows, ...]: every device with rows of its own has the sequences of one shard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from interact_jax.generation.draw import Settings
from interact_jax.generation.engine import Completion, Request
from interact_jax.generation.pages import Lease
from interact_jax.generation.steps import Drawn, Rows
from interact_jax.models.attention.paged import SLOTS


@dataclasses.dataclass
class SampledSequence:
    """A request that is being sampled. `index` is its place among the requests, `limit` how many
    tokens it may have."""

    index: int
    request: Request
    shard: int
    lease: Lease
    limit: int
    ids: list[int] = dataclasses.field(default_factory=list)
    logps: list[float] = dataclasses.field(default_factory=list)
    sampling_logps: list[float] = dataclasses.field(default_factory=list)
    finished: bool = False
    stopped: bool = False

    @property
    def ended(self) -> bool:
        return self.finished or self.stopped or len(self.ids) >= self.limit

    @property
    def fed(self) -> list[int]:
        """The ids whose keys and values are known: the last one drawn was never fed."""
        return [*self.request.ids, *self.ids[:-1]]

    def take(self, drawn: Drawn, row: int, decode: Callable[[Sequence[int]], str] | None) -> None:
        """Add what was drawn for it, up to the token that completes a stop text."""
        new = int(drawn.new_B[row])
        self.ids += drawn.id_BxN[row, :new].tolist()
        self.logps += drawn.logp_BxN[row, :new].tolist()
        self.sampling_logps += drawn.sampling_logp_BxN[row, :new].tolist()
        if decode is not None and self.request.params.stop:
            self._cut_at_stop(new, decode)
        self.finished = bool(drawn.ended_B[row]) and not self.stopped

    def _cut_at_stop(self, new: int, decode: Callable[[Sequence[int]], str]) -> None:
        def has_stop(count: int) -> bool:
            text = decode(self.ids[:count])
            return any(stop in text for stop in self.request.params.stop)

        count = len(self.ids)
        if not has_stop(count):
            return
        count = next(n for n in range(count - new + 1, count + 1) if has_stop(n))
        for values in (self.ids, self.logps, self.sampling_logps):
            del values[count:]
        self.stopped = True

    def completion(self, version: int) -> Completion:
        return Completion(
            self.ids, self.logps, self.finished, self.sampling_logps, self.stopped, version
        )


def tokens_kept(request: Request, limit: int) -> int:
    """The tokens whose keys and values are kept, at most: the last one drawn is never fed."""
    return len(request.ids) + limit - 1


Running = Sequence[Sequence[SampledSequence]]
"""The sequences of every shard."""
Part = tuple[SampledSequence, int]
"""A page of a prompt: the sequence, and the place of the page's first token."""


def arrays_to_fill(
    parts: Sequence[Sequence[Part]], table: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """id, place and table of every part, without the prompts' last tokens; `table`: its width."""
    shape = (len(parts), power(max(map(len, parts))))
    id_BxL = np.zeros((*shape, SLOTS), np.int32)
    place_BxL = np.full((*shape, SLOTS), -1, np.int32)
    table_BxM = np.zeros((*shape, table), np.int32)
    for shard, of_shard in enumerate(parts):
        for row, (sequence, start) in enumerate(of_shard):
            prompt = sequence.request.ids
            ids = prompt[start : min(start + SLOTS, len(prompt) - 1)]
            id_BxL[shard, row, : len(ids)] = ids
            place_BxL[shard, row, : len(ids)] = range(start, start + len(ids))
            table_BxM[shard, row, : len(sequence.lease.pages)] = sequence.lease.pages
    return id_BxL, place_BxL, table_BxM


def arrays_to_copy(copies: Sequence[dict[int, int]], pages: int) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of every copy (target -> source), padded with targets beyond the pages."""
    shape = (len(copies), power(max(map(len, copies))))
    source_B, target_B = np.zeros(shape, np.int32), np.full(shape, pages, np.int32)
    for shard, of_shard in enumerate(copies):
        target_B[shard, : len(of_shard)] = list(of_shard.keys())
        source_B[shard, : len(of_shard)] = list(of_shard.values())
    return source_B, target_B


def rows_to_draw(running: Running, most: int, table: int) -> Rows:
    """A row for every sequence, at most `most` of a shard; `table`: the width of their tables."""
    shape = (len(running), min(most, power(max(map(len, running)), 4)))
    rows = Rows(
        live_B=np.zeros(shape, bool),
        last_B=np.zeros(shape, np.int32),
        place_B=np.zeros(shape, np.int32),
        count_B=np.zeros(shape, np.int32),
        limit_B=np.zeros(shape, np.int32),
        table_BxM=np.zeros((*shape, table), np.int32),
        settings=Settings(
            temperature_B=np.zeros(shape, np.float32),
            top_k_B=np.zeros(shape, np.int32),
            top_p_B=np.ones(shape, np.float32),
            min_p_B=np.zeros(shape, np.float32),
            key_Bx2=np.zeros((*shape, 2), np.uint32),
        ),
    )
    for shard, of_shard in enumerate(running):
        for row, sequence in enumerate(of_shard):
            at, params = (shard, row), sequence.request.params
            rows.live_B[at] = True
            rows.last_B[at] = (sequence.ids or sequence.request.ids)[-1]
            rows.place_B[at] = len(sequence.request.ids) + len(sequence.ids) - 1
            rows.count_B[at] = len(sequence.ids)
            rows.limit_B[at] = sequence.limit
            rows.table_BxM[at][: len(sequence.lease.pages)] = sequence.lease.pages
            rows.settings.temperature_B[at] = params.temperature
            rows.settings.top_k_B[at] = min(params.top_k, np.iinfo(np.int32).max)
            rows.settings.top_p_B[at] = params.top_p
            rows.settings.min_p_B[at] = params.min_p
            seed = sequence.request.seed % 2**64
            rows.settings.key_Bx2[at] = seed >> 32, seed % 2**32
    return rows


def bucket(length: int, least: int) -> int:
    """The next of least, 1.5 least, 2 least, 3 least, 4 least ...: at most a third is unused."""
    size = least
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def power(count: int, base: int = 2) -> int:
    """The smallest power of `base` that is not less than `count`."""
    size = 1
    while size < count:
        size *= base
    return size
