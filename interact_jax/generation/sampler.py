"""The mesh's own sampler: many requests of any lengths, drawn from the parameters that are trained.

    sampler = Sampler(decoder, eos_ids)
    sampler.load(params)
    completions = sampler.sample(requests_for(prompts, SamplingParams(64), seed=0))

Keys and values lie in pages (`pages`), so what prompts have in common is computed and kept once. At
most `rows` sequences are drawn at a time; when one has ended, the next request takes its place.
What runs on the devices is in `steps`: prompts fill pages in rows of one page each, whatever their
lengths, and all sequences draw a token per step. A prompt's last token is fed by the first step.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import Progress

from interact_jax import memory, sharding
from interact_jax.generation.draw import Settings
from interact_jax.generation.engine import Completion, Done, Request
from interact_jax.generation.pages import Lease, Pages
from interact_jax.generation.steps import Rows, jit_steps
from interact_jax.models import paging
from interact_jax.models.attention.paged import SLOTS, Pool, pool_spec
from interact_jax.models.decoder import Decoder
from interact_jax.schema import InputError

STEPS = 64  # tokens drawn in one call, at most
STEPS_BETWEEN_LOOKS = 8  # where somebody reads along: stop texts, a reply shown as it grows
FILLED = 64  # pages filled in one call, at most
LEAST_TABLE = 4  # pages of the smallest table
SHARE = 0.5  # of the device's room that keys and values may take
Look = Callable[[int, list[int]], None]


@dataclasses.dataclass
class _Sequence:
    """A request that is being sampled. `index` is its place among the requests."""

    index: int
    request: Request
    shard: int
    lease: Lease
    limit: int  # tokens
    ids: list[int] = dataclasses.field(default_factory=list)
    logps: list[float] = dataclasses.field(default_factory=list)
    sampling_logps: list[float] = dataclasses.field(default_factory=list)
    finished: bool = False
    stopped: bool = False


class Sampler:
    """Samples from a decoder; an `Engine`.

    `eos_ids` end a completion. At most `rows` sequences are sampled at a time. Ids from
    `vocab_limit` on are never drawn: rows of the embedding beyond the tokenizer, which training
    never touched. `decode` turns ids into text, and is required for stop texts. With a mesh of
    several devices, every device with rows of its own has its own sequences and pages. Keys and
    values take at most `room` bytes of a device, by default half of what it has left, and as much
    as one sequence needs.

    Raises InputError where no EOS could ever be drawn.
    """

    name = "the sampler of this process"

    def __init__(
        self,
        decoder: Decoder,
        eos_ids: Sequence[int],
        *,
        rows: int = 64,
        vocab_limit: int | None = None,
        mesh: Mesh | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        room: float | None = None,
    ):
        vocabulary = decoder.config.vocab_size
        if vocab_limit is not None:
            vocabulary = min(vocabulary, vocab_limit)
        if not any(0 <= eos < vocabulary for eos in eos_ids):
            raise InputError(
                f"eos_ids={list(eos_ids)}: none is among the {vocabulary} ids that can be drawn, "
                "so no completion could end. Give the ids of the tokens that end a reply; model "
                "and tokenizer must belong together."
            )
        if rows < 1:
            raise InputError(f"rows={rows}: expected at least 1 sequence at a time.")
        self.decoder, self.decode, self.room = decoder, decode, room
        self.mesh = mesh if mesh is not None and mesh.size > 1 else None
        self.shards = sharding.row_shards(mesh) if mesh is not None else 1
        self.rows = -(-rows // self.shards)  # of a shard
        self.version = 0
        self.filled = 0  # prompt tokens whose keys and values were computed
        self._fill, self._copy, self._continue = jit_steps(
            decoder, tuple(sorted(set(eos_ids))), vocabulary, STEPS
        )
        self._params: Any = None
        self._pool: Pool | None = None
        self._pages = [Pages(0) for _ in range(self.shards)]

    # ------------------------------------------------------------------------------------- weights

    def load(self, params: Any, version: int = 0) -> None:
        """Sample from these parameters from now on; they are not copied."""
        self._params, self.version = params, version
        for pages in self._pages:
            pages.forget()

    def unload(self) -> None:
        """Let go of the parameters and of the memory for keys and values."""
        self._params = None
        self._drop_pool()

    def _drop_pool(self) -> None:
        self._pool = None
        self._pages = [Pages(0) for _ in range(self.shards)]

    # ------------------------------------------------------------------------------------ requests

    def sample(
        self,
        requests: Sequence[Request],
        done: Done | None = None,
        *,
        look: Look | None = None,
        progress: bool = False,
    ) -> list[Completion]:
        """A completion of every request, in order.

        A completion has at most its `max_new_tokens`, fewer where the prompt leaves less room in
        the model's context. `done` is called with the place and completion of each request as it
        ends, `look` with the place and ids so far of each that is being sampled, every few tokens.
        `progress` shows a bar on stderr.

        Raises InputError for requests that `check` refuses, for one that the room for keys and
        values cannot hold, and for a model whose outputs are not finite.
        """
        assert self._params is not None, "load parameters first"
        self.check(requests)
        if not requests:
            return []
        completions: dict[int, Completion] = {}
        waiting = collections.deque(enumerate(requests))
        running: list[list[_Sequence]] = [[] for _ in range(self.shards)]
        table = _bucket(max(map(self._pages_of, requests)), LEAST_TABLE)
        try:
            with _progress_bar(progress, len(requests)) as advance, self._mesh_context():
                self._make_room(requests)
                while waiting or any(running):
                    self._fill_pages(self._admit(waiting, running), table)
                    for sequence in self._draw(running, table, bool(waiting), look is not None):
                        completion = self._complete(sequence)
                        completions[sequence.index] = completion
                        if done is not None:
                            done(sequence.index, completion)
                        advance(1)
                    if look is not None:
                        for sequence in (s for shard in running for s in shard):
                            look(sequence.index, sequence.ids)
        except BaseException:
            self._drop_pool()  # leases are lost, and perhaps the donated pool
            raise
        return [completions[index] for index in range(len(requests))]

    def check(self, requests: Sequence[Request]) -> None:
        """Raise InputError for requests that can never be sampled: settings out of range, prompts
        that are empty, fill the model's context, or hold ids that it does not have."""
        config = self.decoder.config
        for params in {request.params for request in requests}:
            params.check()
            if params.stop and self.decode is None:
                raise InputError("stop: this sampler has no tokenizer to look for texts with.")
        for index, request in enumerate(requests):
            ids = request.ids
            if not 0 < len(ids) < config.max_positions:
                raise InputError(
                    f"prompt {index}: {len(ids)} tokens; expected at least 1 and fewer than the "
                    f"model's context of {config.max_positions}, so that a reply has room."
                )
            if not 0 <= min(ids) <= max(ids) < config.vocab_size:
                raise InputError(
                    f"prompt {index}: token ids from {min(ids)} to {max(ids)}, but the model "
                    f"has {config.vocab_size}. Model and tokenizer must belong together."
                )

    def _limit(self, request: Request) -> int:
        """How many tokens may be drawn."""
        return min(
            request.params.max_new_tokens, self.decoder.config.max_positions - len(request.ids)
        )

    def _tokens(self, request: Request) -> int:
        """The tokens whose keys and values are kept, at most: the last one drawn is never fed."""
        return len(request.ids) + self._limit(request) - 1

    def _pages_of(self, request: Request) -> int:
        return -(-self._tokens(request) // SLOTS)

    # ---------------------------------------------------------------------------------------- pool

    def _make_room(self, requests: Sequence[Request]) -> None:
        """A pool that holds as many of these requests at a time as there are rows and room for."""
        needs = sorted(map(self._pages_of, requests), reverse=True)
        wanted = _bucket(sum(needs[: self.rows]), LEAST_TABLE)
        most = self._most_pages()
        if self.room is None:  # what is left is a guess: one sequence at a time is always tried
            most = max(most, needs[0])
        if needs[0] > most:
            raise InputError(
                f"a prompt with its reply takes {needs[0] * SLOTS:,} tokens, and there is room for "
                f"the keys and values of {most * SLOTS:,}. Ask for fewer new tokens, shorten the "
                "prompt, or use a type or a mesh that takes less memory."
            )
        count = min(wanted, most)
        if self._pool is not None and self._pages[0].count >= count:
            return
        backend = paging.backend_of(self.decoder)
        make = lambda pages: Pool.empty(  # noqa: E731
            self.decoder.config, pages * self.shards, self.decoder.dtype, backend
        )
        if self.mesh is None:
            self._pool = make(count)
        else:
            spec = pool_spec(self.mesh, self.decoder.config.kv_heads)
            layout = jax.sharding.NamedSharding(self.mesh, spec)
            self._pool = jax.jit(make, static_argnums=0, out_shardings=layout)(count)
        self._pages = [Pages(count) for _ in range(self.shards)]

    def _most_pages(self) -> int:
        """Pages that a device has room for."""
        room = self.room
        if room is None:
            mesh = self.mesh or sharding.make_mesh(devices=jax.local_devices()[:1])
            known = memory.room(mesh)
            if known is None:
                return 1 << 30
            room = SHARE * (known.limit - known.taken) + self._pool_bytes()
        shapes = Pool.shapes(
            self.decoder.config, 1, self.decoder.dtype, paging.backend_of(self.decoder)
        )
        page = sum(
            math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(shapes)
        )
        tensor = self.mesh.shape["tensor"] if self.mesh is not None else 1
        if self.decoder.config.kv_heads % tensor == 0:
            page //= tensor
        return int(room // page)

    def _pool_bytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self._pool)) // self.shards

    # -------------------------------------------------------------------------------------- prompts

    def _admit(
        self,
        waiting: collections.deque[tuple[int, Request]],
        running: list[list[_Sequence]],
    ) -> list[_Sequence]:
        """Begin with waiting requests, in order, while there are rows and pages for the next."""
        admitted = []
        while waiting:
            index, request = waiting[0]
            shard = min(range(self.shards), key=lambda shard: len(running[shard]))
            if len(running[shard]) >= self.rows:
                break
            lease = self._pages[shard].lease(request.ids, self._tokens(request))
            if lease is None:
                break
            waiting.popleft()
            sequence = _Sequence(index, request, shard, lease, self._limit(request))
            running[shard].append(sequence)
            admitted.append(sequence)
        return admitted

    def _fill_pages(self, admitted: Sequence[_Sequence], table: int) -> None:
        """Compute the keys and values of new prompts, without their last tokens: in rows of one
        page, in order, so that what a prompt shares with an earlier one is there when it is read.
        """
        parts: list[list[tuple[_Sequence, int]]] = [[] for _ in range(self.shards)]
        copies: list[dict[int, int]] = [{} for _ in range(self.shards)]  # target -> source
        for sequence in admitted:
            filled = len(sequence.request.ids) - 1
            parts[sequence.shard] += [
                (sequence, start) for start in range(sequence.lease.known, filled, SLOTS)
            ]
            self.filled += filled - sequence.lease.known
            if sequence.lease.copy is not None:
                source, target = sequence.lease.copy
                of_shard = copies[sequence.shard]
                of_shard[target] = of_shard.get(source, source)
        for first in range(0, max(map(len, parts)), FILLED):
            now = [of_shard[first : first + FILLED] for of_shard in parts]
            self._fill_some(now, table)
        if any(copies):
            self._copy_pages(copies)
        for sequence in admitted:
            if sequence.lease.copy is not None:
                self._pages[sequence.shard].copied(sequence.lease)

    def _fill_some(self, parts: Sequence[Sequence[tuple[_Sequence, int]]], table: int) -> None:
        rows = _power(max(map(len, parts)))
        id_BxL = np.zeros((self.shards, rows, SLOTS), np.int32)
        place_BxL = np.full((self.shards, rows, SLOTS), -1, np.int32)
        table_BxM = np.zeros((self.shards, rows, table), np.int32)
        for shard, of_shard in enumerate(parts):
            for row, (sequence, start) in enumerate(of_shard):
                ids = sequence.request.ids[
                    start : min(start + SLOTS, len(sequence.request.ids) - 1)
                ]
                id_BxL[shard, row, : len(ids)] = ids
                place_BxL[shard, row, : len(ids)] = range(start, start + len(ids))
                table_BxM[shard, row, : len(sequence.lease.pages)] = sequence.lease.pages
        arrays = self._place((id_BxL, place_BxL, table_BxM))
        self._pool = self._fill(self._params, self._pool, *arrays)

    def _copy_pages(self, copies: Sequence[dict[int, int]]) -> None:
        count = _power(max(map(len, copies)))
        pages = self._pages[0].count
        source = np.zeros((self.shards, count), np.int32)
        target = np.full((self.shards, count), pages, np.int32)  # no such page: dropped
        for shard, of_shard in enumerate(copies):
            target[shard, : len(of_shard)] = list(of_shard.keys())
            source[shard, : len(of_shard)] = list(of_shard.values())
        self._pool = self._copy(self._pool, *self._place((source, target)))

    # --------------------------------------------------------------------------------------- tokens

    def _draw(
        self,
        running: list[list[_Sequence]],
        table: int,
        others_wait: bool,
        read_along: bool,
    ) -> list[_Sequence]:
        """Draw some tokens for all running sequences; those that ended leave their pages."""
        sequences = [sequence for of_shard in running for sequence in of_shard]
        looked_at = read_along or any(s.request.params.stop for s in sequences)
        rows = self._rows_of(running, table)
        drawn, self._pool = self._continue(
            self._params,
            self._pool,
            jax.tree.map(lambda x: self._place(x), rows),
            np.int32(STEPS_BETWEEN_LOOKS if looked_at else STEPS),
            np.bool_(others_wait),
        )
        drawn = jax.device_get(drawn)
        size = len(drawn.new_B) // self.shards
        ended = []
        for shard, of_shard in enumerate(running):
            for row, sequence in enumerate(list(of_shard), start=shard * size):
                new = int(drawn.new_B[row])
                sequence.ids += drawn.id_BxN[row, :new].tolist()
                sequence.logps += drawn.logp_BxN[row, :new].tolist()
                sequence.sampling_logps += drawn.sampling_logp_BxN[row, :new].tolist()
                sequence.stopped = self._cut_at_stop(sequence, new)
                sequence.finished = bool(drawn.ended_B[row]) and not sequence.stopped
                if sequence.stopped or sequence.finished or len(sequence.ids) >= sequence.limit:
                    of_shard.remove(sequence)
                    self._pages[shard].release(
                        sequence.lease, [*sequence.request.ids, *sequence.ids[:-1]]
                    )
                    ended.append(sequence)
        return ended

    def _rows_of(self, running: Sequence[Sequence[_Sequence]], table: int) -> Rows:
        size = min(self.rows, _power(max(map(len, running)), 4))
        shape = (self.shards, size)
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
                rows.settings.top_k_B[at] = min(params.top_k, self.decoder.config.vocab_size)
                rows.settings.top_p_B[at] = params.top_p
                rows.settings.min_p_B[at] = params.min_p
                seed = sequence.request.seed % 2**64
                rows.settings.key_Bx2[at] = seed >> 32, seed % 2**32
        return rows

    def _cut_at_stop(self, sequence: _Sequence, new: int) -> bool:
        """Cut the sequence behind the token that completes a stop text, if one does."""
        stops = sequence.request.params.stop
        decode = self.decode
        if not stops or decode is None:
            return False

        def has_stop(count: int) -> bool:
            text = decode(sequence.ids[:count])
            return any(stop in text for stop in stops)

        count = len(sequence.ids)
        if not has_stop(count):
            return False
        count = next(n for n in range(count - new + 1, count + 1) if has_stop(n))
        for values in (sequence.ids, sequence.logps, sequence.sampling_logps):
            del values[count:]
        return True

    def _complete(self, sequence: _Sequence) -> Completion:
        if not np.isfinite(sequence.logps).all():
            raise InputError(
                f"prompt {sequence.index}: the model's log-probabilities are not finite. Its "
                f"weights are damaged, or overflow in {jnp.dtype(self.decoder.dtype).name}: try "
                "float32."
            )
        return Completion(
            sequence.ids,
            sequence.logps,
            sequence.finished,
            sequence.sampling_logps,
            sequence.stopped,
            self.version,
        )

    # -------------------------------------------------------------------------------------- devices

    def _place(self, arrays: Any) -> Any:
        """Arrays [shards, rows, ...] as [rows of all shards, ...], each shard's on its device."""
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)
        return sharding.place_rows(flat, self.mesh) if self.mesh is not None else flat

    def _mesh_context(self) -> contextlib.AbstractContextManager[None]:
        return sharding.on(self.mesh) if self.mesh is not None else sharding.on_no_mesh()


def _bucket(length: int, least: int) -> int:
    """The next of least, 1.5 least, 2 least, 3 least, 4 least ...: at most a third is unused."""
    size = least
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _power(count: int, base: int = 2) -> int:
    """The smallest power of `base` that is not less than `count`."""
    size = 1
    while size < count:
        size *= base
    return size


@contextlib.contextmanager
def _progress_bar(shown: bool, total: int) -> Iterator[Any]:
    """A function that advances a progress bar by n requests."""
    with Progress(console=Console(stderr=True), disable=not shown, transient=True) as progress:
        task = progress.add_task("sampling", total=total)
        yield lambda n: progress.advance(task, n)
