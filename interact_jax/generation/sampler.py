"""Sampling: one prefill over the prompts of a group, then one token per step until all have ended.

    sampler = Sampler(decoder, eos_ids)
    completions = sampler.sample(params, prompts, max_new_tokens=64, temperature=1.0, seed=0)

The prompts of a group are padded on the right, so a token's slot in the cache is not its position;
padding is never attended to (three prompt slots, two new ones; digits are positions):

    prompt "a b c"   a0 b1 c2 | d3 e4
    prompt "a"       a0 .  .  | b1 c2

Lengths are rounded up to buckets, and one program is compiled for each. Prompts are grouped by
their own bucket, so that neither the shapes for a prompt nor its random numbers depend on the
others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import Progress

from interact_jax import sharding
from interact_jax.models.decoder import Cache, Decoder, head_DxV
from interact_jax.schema import InputError, TokenStream

LEAST_PROMPT, LEAST_NEW = 32, 16  # slots: the smallest buckets, so that short ones share a program
PREFILL_MASK = 1 << 26  # entries [B, L, S] of a group's attention mask; H float32s each at the peak


@dataclasses.dataclass(frozen=True)
class Completion:
    """The sampled reply to one prompt.

    `ids` include the EOS that ended it, if one did (`finished`). `logps` are log pi of each id
    under the model itself: float32, at temperature 1 and over the whole vocabulary, whatever the
    temperature and the vocabulary limit of the draw, so that a trainer can compare them with its
    own.
    """

    ids: list[int]
    logps: list[float]
    finished: bool


class Sampler:
    """Draws completions from a decoder; compiles once per bucket of rows, prompt and new tokens.

    `eos_ids` end a completion. At most `rows` prompts are in one group. Ids from `vocab_limit` on
    are never drawn: rows of the embedding beyond the tokenizer, which training never touched.
    With a mesh, the rows of a group are distributed over its devices (one process only).

    Raises InputError where no EOS could ever be drawn.
    """

    def __init__(
        self,
        decoder: Decoder,
        eos_ids: Sequence[int],
        *,
        rows: int = 64,
        vocab_limit: int | None = None,
        mesh: Mesh | None = None,
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
            raise InputError(f"rows={rows}: expected at least 1 prompt in a group.")
        self.decoder, self.rows, self.mesh = decoder, rows, mesh
        self._complete = jax.jit(
            functools.partial(_complete, decoder, tuple(sorted(set(eos_ids))), vocabulary),
            static_argnames="new",
        )

    def sample(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        indices: Sequence[int] | None = None,
        progress: bool = False,
    ) -> list[Completion]:
        """A completion for every prompt (token ids), in the prompts' order.

        temperature 0 is greedy. A completion has at most `max_new_tokens`, fewer where its prompt
        leaves less room in the model's context. The random numbers of a prompt depend only on
        `seed` and its index (default: its place in `prompts`); the same prompt under two indices
        gives two independent samples. `progress` shows a bar on stderr.

        Raises InputError for settings out of range, for prompts that are empty, fill the model's
        context or hold ids it does not have, and for a model whose outputs are not finite.
        """
        indices = range(len(prompts)) if indices is None else indices
        self.check(prompts, max_new_tokens=max_new_tokens, temperature=temperature, indices=indices)
        done: dict[int, Completion] = {}
        with _progress_bar(progress, len(prompts)) as advance, self._mesh_context():
            for members, rows, length, new in self._groups(prompts, max_new_tokens):
                samples = self._complete(
                    params,
                    **self._group_arrays(prompts, indices, members, rows, length, max_new_tokens),
                    seed=np.uint32(seed % 2**32),
                    temperature=np.float32(temperature),
                    new=new,
                )
                for member, completion in zip(members, _unpack(samples), strict=False):
                    if not np.isfinite(completion.logps).all():
                        raise InputError(
                            f"prompt {indices[member]}: the model's log-probabilities are not "
                            "finite. Its weights are damaged, or overflow in "
                            f"{jnp.dtype(self.decoder.dtype).name}: try float32."
                        )
                    done[member] = completion
                advance(len(members))
        return [done[index] for index in range(len(prompts))]

    def check(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        indices: Sequence[int] | None = None,
    ) -> None:
        """The checks of `sample`, for callers that load weights after them. Raises InputError."""
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens={max_new_tokens}: expected at least 1.")
        if not (temperature >= 0 and math.isfinite(temperature)):
            raise InputError(
                f"temperature={temperature}: expected 0 (greedy) or a positive number."
            )
        indices = range(len(prompts)) if indices is None else indices
        config = self.decoder.config
        for index, prompt in zip(indices, prompts, strict=True):
            if not 0 < len(prompt) < config.max_positions:
                raise InputError(
                    f"prompt {index}: {len(prompt)} tokens; expected at least 1 and fewer than the "
                    f"model's context of {config.max_positions}, so that a reply has room."
                )
            if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
                raise InputError(
                    f"prompt {index}: token ids from {min(prompt)} to {max(prompt)}, but the model "
                    f"has {config.vocab_size}. Model and tokenizer must belong together."
                )

    def _groups(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[list[int], int, int, int]]:
        """(places in `prompts`, rows, prompt slots, new slots) of every group, the longest prompts
        first, so that a lack of memory shows at once and not after an hour.

        New slots are as many as requested, but no more than the context leaves after the shortest
        prompt of the bucket.
        """
        buckets: dict[int, list[int]] = {}
        for place, prompt in enumerate(prompts):
            buckets.setdefault(_bucket(len(prompt), LEAST_PROMPT), []).append(place)
        multiple = sharding.row_shards(self.mesh) if self.mesh else 1
        for length, members in sorted(buckets.items(), reverse=True):
            room = self.decoder.config.max_positions - _shortest(length, LEAST_PROMPT)
            new = _bucket(min(max_new_tokens, room), LEAST_NEW)
            rows = max(1, min(self.rows, PREFILL_MASK // (length * (length + new))))
            rows = min(rows, 1 << (len(members) - 1).bit_length())
            for start in range(0, len(members), rows):
                # The last group is padded, which is cheaper than compiling for its size.
                group = members[start : start + rows]
                yield group, -(-rows // multiple) * multiple, length, new

    def _group_arrays(
        self,
        prompts: Sequence[Sequence[int]],
        indices: Sequence[int],
        members: Sequence[int],
        rows: int,
        length: int,
        max_new_tokens: int,
    ) -> dict[str, Any]:
        """The arrays of a group; rows beyond its members have length and limit 0."""
        arrays = {
            "id_BxL": np.zeros((rows, length), np.int32),
            "length_B": np.zeros(rows, np.int32),
            "limit_B": np.zeros(rows, np.int32),
            "index_B": np.zeros(rows, np.uint32),
        }
        for row, member in enumerate(members):
            prompt = prompts[member]
            room = self.decoder.config.max_positions - len(prompt)
            arrays["id_BxL"][row, : len(prompt)] = prompt
            arrays["length_B"][row] = len(prompt)
            arrays["limit_B"][row] = min(max_new_tokens, room)
            arrays["index_B"][row] = indices[member]
        return sharding.place_rows(arrays, self.mesh) if self.mesh else arrays

    def _mesh_context(self) -> contextlib.AbstractContextManager[None]:
        return sharding.on(self.mesh) if self.mesh else contextlib.nullcontext()


# ------------------------------------------------------------------------------- on the device


@flax.struct.dataclass
class _Samples:
    """The state of the loop: `step` tokens have been drawn for every live row."""

    step: jax.Array
    live_B: jax.Array
    finished_B: jax.Array
    count_B: jax.Array  # tokens of each row
    id_BxN: jax.Array  # N here: new tokens
    logp_BxN: jax.Array


def _complete(
    decoder: Decoder,
    eos_ids: tuple[int, ...],
    vocabulary: int,
    params: Any,
    *,
    id_BxL: jax.Array,
    length_B: jax.Array,
    limit_B: jax.Array,
    index_B: jax.Array,
    seed: jax.Array,
    temperature: jax.Array,
    new: int,
) -> _Samples:
    """Complete the prompts of a group; `new` slots for at most `limit_B` tokens each."""
    B, L = id_BxL.shape
    head = head_DxV(params)
    key_B = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(index_B)

    def extend(id_BxL, position_BxL, real_BxL, cache, slot):
        stream = TokenStream(
            id_BxL, position_BxL, real_BxL.astype(jnp.int32), jnp.zeros_like(id_BxL)
        )
        return decoder.apply({"params": params}, stream, cache, slot, method="extend")

    def draw(samples: _Samples, hidden_BxD: jax.Array) -> _Samples:
        """One more token per row, from the hidden states of the last tokens."""
        logits_BxV = jnp.einsum(
            "BD,DV->BV",
            hidden_BxD,
            head.astype(hidden_BxD.dtype),
            preferred_element_type=jnp.float32,
        )
        key_of_step_B = jax.vmap(lambda key: jax.random.fold_in(key, samples.step))(key_B)
        id_B = _choose(logits_BxV, key_of_step_B, temperature, vocabulary)
        logp_B = jnp.take_along_axis(logits_BxV, id_B[:, None], axis=1)[:, 0]
        logp_B -= jax.nn.logsumexp(logits_BxV, axis=1)
        live_B = samples.live_B
        ended_B = live_B & jnp.isin(id_B, jnp.asarray(eos_ids))
        count_B = samples.count_B + live_B

        def record(old_BxN: jax.Array, value_B: jax.Array) -> jax.Array:
            column = jnp.where(live_B, value_B, 0)[:, None]
            return jax.lax.dynamic_update_slice_in_dim(old_BxN, column, samples.step, axis=1)

        return _Samples(
            step=samples.step + 1,
            live_B=live_B & ~ended_B & (count_B < limit_B),
            finished_B=samples.finished_B | ended_B,
            count_B=count_B,
            id_BxN=record(samples.id_BxN, id_B),
            logp_BxN=record(samples.logp_BxN, logp_B),
        )

    def step(state: tuple[_Samples, Cache]) -> tuple[_Samples, Cache]:
        """Feed the last token, draw the next."""
        samples, cache = state
        last = samples.step - 1
        id_Bx1 = jax.lax.dynamic_slice_in_dim(samples.id_BxN, last, 1, axis=1)
        position_Bx1 = (length_B + last)[:, None]
        hidden_Bx1xD, cache = extend(id_Bx1, position_Bx1, samples.live_B[:, None], cache, L + last)
        return draw(samples, hidden_Bx1xD[:, 0]), cache

    position_BxL = jax.lax.broadcasted_iota(jnp.int32, (B, L), 1)
    cache = Cache.empty(decoder.config, B, L + new, decoder.dtype)
    hidden_BxLxD, cache = extend(id_BxL, position_BxL, position_BxL < length_B[:, None], cache, 0)
    last_Bx1x1 = jnp.maximum(length_B - 1, 0)[:, None, None]
    samples = _Samples(
        step=jnp.int32(0),
        live_B=limit_B > 0,
        finished_B=jnp.zeros(B, bool),
        count_B=jnp.zeros(B, jnp.int32),
        id_BxN=jnp.zeros((B, new), jnp.int32),
        logp_BxN=jnp.zeros((B, new), jnp.float32),
    )
    samples = draw(samples, jnp.take_along_axis(hidden_BxLxD, last_Bx1x1, axis=1)[:, 0])
    # A token enters the cache only when the next is drawn: the last one costs no forward.
    samples, _ = jax.lax.while_loop(lambda state: state[0].live_B.any(), step, (samples, cache))
    return samples


def _choose(
    logits_BxV: jax.Array, key_B: jax.Array, temperature: jax.Array, vocabulary: int
) -> jax.Array:
    """An id per row, below `vocabulary`: the likeliest at temperature 0, else drawn."""
    id_1xV = jax.lax.broadcasted_iota(jnp.int32, (1, logits_BxV.shape[1]), 1)
    allowed_BxV = jnp.where(id_1xV < vocabulary, logits_BxV, -jnp.inf)
    return jax.lax.cond(
        temperature > 0,
        lambda: jax.vmap(jax.random.categorical)(key_B, allowed_BxV / temperature),
        lambda: jnp.argmax(allowed_BxV, axis=1),
    ).astype(jnp.int32)


# --------------------------------------------------------------------------------- on the host


def _bucket(length: int, least: int) -> int:
    """The next of least, 1.5 least, 2 least, 3 least, 4 least ...: at most a third is padding."""
    size = least
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _shortest(bucket: int, least: int) -> int:
    """The smallest length that `_bucket` puts into a bucket."""
    if bucket == least:
        return 1
    return 1 + (bucket * 2 // 3 if bucket & (bucket - 1) else bucket * 3 // 4)


def _unpack(samples: _Samples) -> Iterator[Completion]:
    count_B, finished_B, id_BxN, logp_BxN = jax.device_get(
        (samples.count_B, samples.finished_B, samples.id_BxN, samples.logp_BxN)
    )
    for count, finished, ids, logps in zip(count_B, finished_B, id_BxN, logp_BxN, strict=True):
        yield Completion(ids[:count].tolist(), logps[:count].tolist(), bool(finished))


@contextlib.contextmanager
def _progress_bar(shown: bool, total: int) -> Iterator[Any]:
    """A function that advances a progress bar by n prompts."""
    with Progress(console=Console(stderr=True), disable=not shown, transient=True) as progress:
        task = progress.add_task("sampling", total=total)
        yield lambda n: progress.advance(task, n)
