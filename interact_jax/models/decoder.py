"""The decoder: one linen model for every family, over a trunk and its branches in one pass.

    branches = (BranchStream(student), BranchStream(teacher, differentiated=False))
    trunk, (student, teacher) = Decoder(config).apply({"params": params}, trunk, branches, table)

A branch reads its trunk's keys and values in the same layer. One that is not differentiated reads
them under a stop-gradient, and nothing of it enters the backward pass. That is the whole sharing:
keys and values of the prefix live for one layer inside the scan. The model knows trunk, branches
and which are differentiated; it knows neither teacher nor follow-up.

Parameters are named by the alphabet (`q_DxHxK`), so a name tells its shape and how to shard it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from interact_jax.models import attention
from interact_jax.models.families import DecoderConfig
from interact_jax.models.layers import rms_norm, rope_angles, rotate
from interact_jax.schema import Branches, InputError, TokenStream

REMAT_POLICIES = {
    "none": None,  # keep every activation: fastest where memory allows
    "full": jax.checkpoint_policies.nothing_saveable,  # keep a layer's input only
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep projections
}
"""What the backward pass recomputes, by the name that settings use."""


@dataclasses.dataclass(frozen=True)
class BranchStream:
    """A stream of branch tokens; one that is not differentiated costs one forward, no more."""

    stream: TokenStream
    differentiated: bool = True


@flax.struct.dataclass
class View:
    """What a layer needs to know of a stream: where its tokens stand and what they may see."""

    angles: tuple[jax.Array, jax.Array]
    mask_BxLxS: jax.Array
    distance_BxLxS: jax.Array | None  # only where some layer has a window
    differentiated: bool = flax.struct.field(pytree_node=False, default=True)


@flax.struct.dataclass
class Cache:
    """Keys and values of the tokens so far, for sampling. S slots, the same slot in every row."""

    k_NxBxSxGxK: jax.Array
    v_NxBxSxGxK: jax.Array
    position_BxS: jax.Array
    filled_BxS: jax.Array

    @classmethod
    def empty(cls, config: DecoderConfig, rows: int, slots: int, dtype: Any) -> Cache:
        shape = (config.layers, rows, slots, config.kv_heads, config.head_width)
        return cls(
            jnp.zeros(shape, dtype),
            jnp.zeros(shape, dtype),
            jnp.zeros((rows, slots), jnp.int32),
            jnp.zeros((rows, slots), bool),
        )


class Layer(nn.Module):
    """Attention and MLP of one layer, for all streams: the body of the scan over layers."""

    config: DecoderConfig
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, hiddens, cache_kv, window, views, slot):
        """hiddens: one [B, L, D] a stream, trunk first. Returns the same, and the new cache_kv.

        With a cache (`cache_kv` = keys and values [B, S, G, K]) there is one stream; its keys and
        values are written from `slot` on and it sees the cache.
        """
        c = self.config
        D, H, G, K, F = c.width, c.heads, c.kv_heads, c.head_width, c.mlp_width
        weight, ones, zeros = _initialisers(c)

        def param(name, init, *shape):
            return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

        w = {
            "attention_norm": param("attention_norm_D", ones, D),
            "q": param("q_DxHxK", weight, D, H, K),
            "k": param("k_DxGxK", weight, D, G, K),
            "v": param("v_DxGxK", weight, D, G, K),
            "o": param("o_HxKxD", weight, H, K, D),
            "mlp_norm": param("mlp_norm_D", ones, D),
            "gate": param("gate_DxF", weight, D, F),
            "up": param("up_DxF", weight, D, F),
            "down": param("down_FxD", weight, F, D),
        }
        if c.qk_norm:
            w |= {"q_norm": param("q_norm_K", ones, K), "k_norm": param("k_norm_K", ones, K)}
        if c.qkv_bias:
            w |= {
                "q_bias": param("q_bias_HxK", zeros, H, K),
                "k_bias": param("k_bias_GxK", zeros, G, K),
                "v_bias": param("v_bias_GxK", zeros, G, K),
            }
        if c.o_bias:
            w |= {"o_bias": param("o_bias_D", zeros, D)}

        trunk_kv, outputs = None, []
        for hidden, view in zip(hiddens, views, strict=True):
            # Freezing what a stream reads as well as what it hands out keeps its tangents from
            # being traced at all; the latter alone already keeps it out of the backward pass.
            freeze = (lambda x: x) if view.differentiated else jax.lax.stop_gradient
            w_ = jax.tree.map(freeze, w)
            q, k, v = self._project(rms_norm(hidden, w_["attention_norm"], c.norm_eps), w_, view)
            if cache_kv is not None:
                k, v = (
                    jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, axis=1)
                    for old, new in zip(cache_kv, (k, v), strict=True)
                )
                cache_kv = (k, v)
            elif trunk_kv is None:
                trunk_kv = (k, v)
            else:
                k, v = (
                    jnp.concatenate([freeze(shared), own], axis=1)
                    for shared, own in zip(trunk_kv, (k, v), strict=True)
                )
            mask = view.mask_BxLxS
            if view.distance_BxLxS is not None:
                mask = mask & (view.distance_BxLxS < window)
            hidden = hidden + self._output(attention.attend(q, k, v, mask), w_)
            hidden = hidden + self._mlp(rms_norm(hidden, w_["mlp_norm"], c.norm_eps), w_)
            outputs.append(nn.with_logical_constraint(freeze(hidden), ("B", None, None)))
        return tuple(outputs), cache_kv

    def _project(self, x_BxLxD, w, view):
        q = jnp.einsum("BLD,DHK->BLHK", x_BxLxD, w["q"])
        k = jnp.einsum("BLD,DGK->BLGK", x_BxLxD, w["k"])
        v = jnp.einsum("BLD,DGK->BLGK", x_BxLxD, w["v"])
        if self.config.qkv_bias:
            q, k, v = (
                q + w["q_bias"][None, None],
                k + w["k_bias"][None, None],
                v + w["v_bias"][None, None],
            )
        if self.config.qk_norm:
            q = rms_norm(q, w["q_norm"], self.config.norm_eps)
            k = rms_norm(k, w["k_norm"], self.config.norm_eps)
        return rotate(q, view.angles), rotate(k, view.angles), v

    def _output(self, attended_BxLxHxK, w):
        out = jnp.einsum("BLHK,HKD->BLD", attended_BxLxHxK, w["o"])
        return out + w["o_bias"][None, None] if self.config.o_bias else out

    def _mlp(self, x_BxLxD, w):
        gate = jax.nn.silu(jnp.einsum("BLD,DF->BLF", x_BxLxD, w["gate"]))
        return jnp.einsum(
            "BLF,FD->BLD", gate * jnp.einsum("BLD,DF->BLF", x_BxLxD, w["up"]), w["down"]
        )


class Decoder(nn.Module):
    """Token ids to hidden states (after the final norm); `head` turns those into logits.

    dtype is what it computes in, param_dtype what the parameters are stored in; remat names one of
    REMAT_POLICIES.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self):
        c = self.config
        weight, ones, _ = _initialisers(c)
        self.embedding = self.param(
            "embedding_VxD", weight, (c.vocab_size, c.width), self.param_dtype
        )
        self.final_norm = self.param("final_norm_D", ones, (c.width,), self.param_dtype)
        if not c.tied:
            self.head = self.param("head_DxV", weight, (c.width, c.vocab_size), self.param_dtype)
        if self.remat not in REMAT_POLICIES:
            raise InputError(
                f"remat={self.remat!r} is not known. Policies: {', '.join(REMAT_POLICIES)}."
            )
        body = Layer
        if self.remat != "none":
            body = nn.remat(Layer, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        self.layers = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast),
            out_axes=0,
            length=c.layers,
        )(c, self.dtype, self.param_dtype)

    def __call__(
        self,
        trunk: TokenStream,
        branches: Sequence[BranchStream] = (),
        table: Branches | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Hidden states of the trunk [B, T, D] and of each stream of branches [B, L, D].

        `table` has the forks of the branches, and is needed where there are any. Depth is 1 so far:
        every parent is a trunk.
        """
        views = [self._view(trunk, trunk.position_BxL, attention.sees_own(trunk))]
        for branch in branches:
            stream = branch.stream
            sees = (attention.sees_trunk(stream, trunk, table), attention.sees_own(stream))
            position_BxS = jnp.concatenate([trunk.position_BxL, stream.position_BxL], axis=1)
            views.append(
                self._view(
                    stream, position_BxS, jnp.concatenate(sees, axis=2), branch.differentiated
                )
            )
        streams = [trunk, *(branch.stream for branch in branches)]
        hiddens, _ = self._run(streams, views, None, 0)
        return hiddens[0], tuple(hiddens[1:])

    def extend(self, new: TokenStream, cache: Cache, slot: jax.Array) -> tuple[jax.Array, Cache]:
        """Append tokens [B, L] to the cache from `slot` on; their hidden states and the new cache.

        Prefill is one call with the prompts, padded behind (segment 0), decoding one call a token.
        """
        position, filled = (
            jax.lax.dynamic_update_slice_in_dim(old, part, slot, axis=1)
            for old, part in (
                (cache.position_BxS, new.position_BxL),
                (cache.filled_BxS, new.segment_BxL > 0),
            )
        )
        mask = filled[:, None, :] & (position[:, None, :] <= new.position_BxL[:, :, None])
        view = self._view(new, position, mask)
        (hidden,), (k, v) = self._run([new], [view], (cache.k_NxBxSxGxK, cache.v_NxBxSxGxK), slot)
        return hidden, Cache(k, v, position, filled)

    def fresh_params(self, seed: int | jax.Array) -> Any:
        """Random parameters, normal with the model's `initializer_range`."""
        token = TokenStream(*jnp.zeros((4, 1, 1), jnp.int32))
        return self.init(jax.random.key(seed), token)["params"]

    def _view(self, stream, position_BxS, mask, differentiated=True) -> View:
        far = None
        if any(window is not None for window in self.config.windows):
            far = attention.distance(stream.position_BxL, position_BxS)
        return View(rope_angles(stream.position_BxL, self.config), mask, far, differentiated)

    def _run(self, streams, views, cache_kv, slot):
        embedding = self.embedding.astype(self.dtype)
        hiddens = []
        for stream, view in zip(streams, views, strict=True):
            hidden = jnp.take(embedding, stream.id_BxL, axis=0)
            hidden = hidden if view.differentiated else jax.lax.stop_gradient(hidden)
            hiddens.append(nn.with_logical_constraint(hidden, ("B", None, None)))
        unlimited = jnp.iinfo(jnp.int32).max
        window_N = jnp.asarray([w or unlimited for w in self.config.windows], jnp.int32)
        hiddens, cache_kv = self.layers(tuple(hiddens), cache_kv, window_N, tuple(views), slot)
        scale = self.final_norm.astype(self.dtype)
        normed = []
        for hidden, view in zip(hiddens, views, strict=True):
            hidden = rms_norm(hidden, scale, self.config.norm_eps)
            normed.append(hidden if view.differentiated else jax.lax.stop_gradient(hidden))
        return tuple(normed), cache_kv


def head_DxV(params: Any) -> jax.Array:
    """The matrix that turns hidden states into logits; the embedding's transpose where tied."""
    return params["head_DxV"] if "head_DxV" in params else params["embedding_VxD"].T


def _initialisers(config: DecoderConfig):
    return nn.initializers.normal(config.init_std), nn.initializers.ones, nn.initializers.zeros
