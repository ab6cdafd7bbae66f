"""The mesh's own sampler: many requests of any lengths, drawn from the parameters that are trained.

    sampler = Sampler(decoder, eos_ids)
    sampler.load(params)
    completions = sampler.sample(requests_for(prompts, SamplingParams(64), seed=0))

Keys and values lie in pages (`pages`), so what prompts have in common is computed and kept once. At
most `rows` sequences are drawn at a time; when one has ended, the next request takes its place.
What runs on the devices is in `steps`, and its arrays are made in `sequences`: prompts fill pages
in rows of one page each, whatever their lengths, and all sequences draw a token per step. A
prompt's last token is fed by the first step.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import Progress

from interact_jax import memory, progress, sharding
from interact_jax.cluster import processes
from interact_jax.generation.engine import Completion, Done, NotFinite, Request, limit_of
from interact_jax.generation.pages import Pages
from interact_jax.generation.sequences import (
    Part,
    SampledSequence,
    arrays_to_copy,
    arrays_to_fill,
    bucket,
    rows_to_draw,
    tokens_kept,
)
from interact_jax.generation.steps import jit_steps
from interact_jax.models import paging
from interact_jax.models.attention.paged import SLOTS, Pool, pool_spec
from interact_jax.models.decoder import Decoder
from interact_jax.schema import InputError

STEPS = 64  # tokens drawn in one call, at most
STEPS_BETWEEN_LOOKS = 8  # where somebody reads along: stop texts, a reply shown as it grows
FILLED = 64  # pages filled in one call, at most
LEAST_TABLE = 4  # pages of the smallest table
SHARE = 0.5  # of the device's room that keys and values may take
Look = Callable[[int, list[int]], object]
"""(place, ids so far) of a reply that grows; it ends there where this returns something true."""


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
        self.forget()

    def forget(self) -> None:
        """Let go of the memory for keys and values, and of all that was computed."""
        self._pool = None
        self._pages = [Pages(0) for _ in range(self.shards)]

    # ------------------------------------------------------------------------------------ requests

    def sample(
        self,
        requests: Sequence[Request],
        done: Done | None = None,
        *,
        look: Look | None = None,
        look_every: int = STEPS_BETWEEN_LOOKS,
        progress: bool = False,
    ) -> list[Completion]:
        """A completion of every request, in order.

        A completion has at most its `max_new_tokens`, fewer where the prompt leaves less room in
        the model's context. `done` is called with the place and completion of each request as it
        ends, `look` with the place and ids so far of each that is being sampled, every `look_every`
        tokens; it may end a reply, which then is as if cut at its limit. `progress` shows a bar on
        a terminal's stderr, and counts the seconds in a log.

        Raises InputError for requests that `check` refuses, for one that the room for keys and
        values cannot hold; NotFinite for a model whose outputs are not finite.
        """
        assert self._params is not None, "load parameters first"
        limits = self.check(requests)
        if not requests:
            return []
        completions: dict[int, Completion] = {}
        every = None if look is None else look_every
        waiting = collections.deque(zip(range(len(requests)), requests, limits, strict=True))
        running: list[list[SampledSequence]] = [[] for _ in range(self.shards)]
        needs = [
            -(-tokens_kept(request, limit) // SLOTS)
            for request, limit in zip(requests, limits, strict=True)
        ]
        table = bucket(max(needs), LEAST_TABLE)
        try:
            with _progress_bar(progress, len(requests)) as advance, self._mesh_context():
                self._make_room(needs)
                while waiting or any(running):
                    self._fill_pages(self._admit(waiting, running), table)
                    assert any(running), "the pool holds any one of the requests"
                    ended = self._draw(running, table, bool(waiting), every)
                    if look is not None:
                        ended += self._ended_by(look, running)
                    for sequence in ended:
                        completion = self._complete(sequence)
                        completions[sequence.index] = completion
                        if done is not None:
                            done(sequence.index, completion)
                        advance(1)
        except BaseException:
            self.forget()  # leases are lost, and perhaps the donated pool
            raise
        return [completions[index] for index in range(len(requests))]

    def check(self, requests: Sequence[Request]) -> list[int]:
        """How many tokens each completion may have. Raises InputError for requests that can never
        be sampled."""
        config = self.decoder.config
        if self.decode is None and any(request.params.stop for request in requests):
            raise InputError("stop: this sampler has no tokenizer to look for texts with.")
        return [
            limit_of(index, request, config.max_positions, config.vocab_size)
            for index, request in enumerate(requests)
        ]

    # ---------------------------------------------------------------------------------------- pool

    def _make_room(self, needs: Sequence[int]) -> None:
        """A pool for sequences with these numbers of pages: as many at a time as there are rows and
        room for."""
        needs = sorted(needs, reverse=True)
        wanted = bucket(sum(needs[: self.rows]), LEAST_TABLE)
        most = self._most_pages()
        if self.mesh is not None and self.mesh.is_multi_process:  # all have pools of one size
            most = min(map(int, processes.exchange("pages", str(most))))
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
        self.forget()  # before the larger one takes its memory
        make: Callable[[], Pool] = functools.partial(self._empty_pool, count * self.shards)
        if self.mesh is not None:
            spec = pool_spec(self.mesh, self.decoder.config.kv_heads)
            make = jax.jit(make, out_shardings=jax.sharding.NamedSharding(self.mesh, spec))
        self._pool = make()
        self._pages = [Pages(count) for _ in range(self.shards)]

    def _empty_pool(self, pages: int) -> Pool:
        backend = paging.backend_of(self.decoder)
        return Pool.empty(self.decoder.config, pages, self.decoder.dtype, backend)

    def _most_pages(self) -> int:
        """Pages that a device has room for."""
        room = self.room
        if room is None:
            mesh = self.mesh or sharding.make_mesh(devices=jax.local_devices()[:1])
            known = memory.room(mesh)
            if known is None:
                return 1 << 30
            room = SHARE * (known.limit - known.taken) + self._pool_bytes()
        page = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self._one_page()))
        tensor = self.mesh.shape["tensor"] if self.mesh is not None else 1
        if self.decoder.config.kv_heads % tensor == 0:
            page //= tensor
        return int(room // page)

    def _one_page(self) -> Any:
        return jax.eval_shape(functools.partial(self._empty_pool, 1))

    def _pool_bytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self._pool)) // self.shards

    # -------------------------------------------------------------------------------------- prompts

    def _admit(
        self,
        waiting: collections.deque[tuple[int, Request, int]],
        running: list[list[SampledSequence]],
    ) -> list[SampledSequence]:
        """Begin with waiting requests, in order, while there are rows and pages for the next."""
        admitted = []
        while waiting:
            index, request, limit = waiting[0]
            shard = min(range(self.shards), key=lambda shard: len(running[shard]))
            if len(running[shard]) >= self.rows:
                break
            lease = self._pages[shard].lease(request.ids, tokens_kept(request, limit))
            if lease is None:
                break
            waiting.popleft()
            sequence = SampledSequence(index, request, shard, lease, limit)
            running[shard].append(sequence)
            admitted.append(sequence)
        return admitted

    def _fill_pages(self, admitted: Sequence[SampledSequence], table: int) -> None:
        """Compute the keys and values of new prompts, without their last tokens: in rows of one
        page, in order, so that what a prompt shares with an earlier one is there when it is read.
        """
        parts: list[list[Part]] = [[] for _ in range(self.shards)]
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
            arrays = self._place(arrays_to_fill(now, table))
            self._pool = self._fill(self._params, *arrays, self._pool)
        if any(copies):
            arrays = self._place(arrays_to_copy(copies, self._pages[0].count))
            self._pool = self._copy(self._pool, *arrays)
        for sequence in admitted:
            if sequence.lease.copy is not None:
                self._pages[sequence.shard].copied(sequence.lease)

    # --------------------------------------------------------------------------------------- tokens

    def _draw(
        self,
        running: list[list[SampledSequence]],
        table: int,
        others_wait: bool,
        every: int | None,
    ) -> list[SampledSequence]:
        """Draw some tokens for all running sequences, `every` where somebody reads along; those
        that ended leave their pages."""
        sequences = [sequence for of_shard in running for sequence in of_shard]
        if every is None:
            has_stop = any(sequence.request.params.stop for sequence in sequences)
            every = STEPS_BETWEEN_LOOKS if has_stop else STEPS
        rows = rows_to_draw(running, self.rows, table)
        drawn, self._pool = self._continue(
            self._params,
            self._pool,
            self._place(rows),
            np.int32(min(every, STEPS)),
            np.bool_(others_wait),
        )
        drawn = sharding.to_host(drawn)
        size = rows.live_B.shape[1]
        ended = []
        for shard, of_shard in enumerate(running):
            for row, sequence in enumerate(list(of_shard), start=shard * size):
                sequence.take(drawn, row, self.decode)
                if sequence.ended:
                    self._release(sequence, running)
                    ended.append(sequence)
        return ended

    def _ended_by(self, look: Look, running: list[list[SampledSequence]]) -> list[SampledSequence]:
        """Show all running sequences; those that `look` ends leave their pages."""
        ended = [s for of_shard in running for s in of_shard if look(s.index, s.ids)]
        for sequence in ended:
            self._release(sequence, running)
        return ended

    def _release(self, sequence: SampledSequence, running: list[list[SampledSequence]]) -> None:
        running[sequence.shard].remove(sequence)
        self._pages[sequence.shard].release(sequence.lease, sequence.fed)

    def _complete(self, sequence: SampledSequence) -> Completion:
        if not np.isfinite(sequence.logps).all():
            error = NotFinite(
                f"prompt {sequence.index}: the model's log-probabilities are not finite. Its "
                f"weights are damaged, or overflow in {jnp.dtype(self.decoder.dtype).name}: try "
                "float32."
            )
            raise processes.common(error)  # all sample the same
        return sequence.completion(self.version)

    # -------------------------------------------------------------------------------------- devices

    def _place(self, arrays: Any) -> Any:
        """Arrays [shards, rows, ...] as [rows of all shards, ...], each shard's on its device."""
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)
        return sharding.place_rows(flat, self.mesh) if self.mesh is not None else flat

    def _mesh_context(self) -> contextlib.AbstractContextManager[None]:
        return sharding.on(self.mesh) if self.mesh is not None else sharding.on_no_mesh()


@contextlib.contextmanager
def _progress_bar(shown: bool, total: int) -> Iterator[Any]:
    """A function that advances a progress bar by n requests; in a log, seconds are counted."""
    console = Console(stderr=True)
    drawn = shown and console.is_terminal
    other = progress.bar() if drawn else progress.of("sampling")
    with (
        other if shown else contextlib.nullcontext(),
        Progress(console=console, disable=not drawn, transient=True) as bar,
    ):
        task = bar.add_task("sampling", total=total)
        yield lambda n: bar.advance(task, n)
