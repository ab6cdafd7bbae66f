"""The decoder: one linen model for every family, over a trunk and its branches in one pass.

    branches = (BranchStream(live), BranchStream(frozen, differentiated=False))
    trunk, (live, frozen) = Decoder(config).apply({"params": params}, trunk, branches, table)

In each layer a branch reads the keys and values of its trunk. A branch that is not differentiated
reads them under a stop-gradient, and nothing of it enters the backward pass. This is all that
sharing takes: keys and values of the prefix live for one layer, inside the scan. The model knows
trunk, branches and which are differentiated; it does not know about teachers or follow-ups.

Parameters are named by the alphabet (`q_DxHxK`), so a name gives the shape and how to shard it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer

from interact_jax.models import block
from interact_jax.models.attention import SAVED, attend
from interact_jax.models.attention.sight import Sight, branch_sight, concatenate_sights, trunk_sight
from interact_jax.models.families import DecoderConfig
from interact_jax.models.layers import rms_norm, rope_angles
from interact_jax.schema import Array, Branches, InputError, TokenStream
from interact_jax.settings import Setting

REMAT_POLICIES = {
    "none": None,  # keep every activation: fastest, if memory allows
    "full": jax.checkpoint_policies.nothing_saveable,  # keep only the input of a layer
    "attention": jax.checkpoint_policies.save_only_these_names(SAVED),  # and attention's result
    "dots": jax.checkpoint_policies.save_from_both_policies(  # and all projections
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(SAVED),
    ),
}
"""What the backward pass recomputes, by the value of the setting `remat`."""
SETTINGS = {
    "remat": Setting(
        "full",
        "activations to recompute in the backward pass, by policy",
        tuple(REMAT_POLICIES),
        free=True,
    ),
}


def precision_of(dtype: str) -> str | None:
    """The precision of matrix products (`jax_default_matmul_precision`) for a model that computes
    in `dtype`: by default, GPUs and TPUs multiply float32 with fewer bits."""
    return "highest" if dtype == "float32" else None


@dataclasses.dataclass(frozen=True)
class BranchStream:
    """A stream of branch tokens; if not differentiated, it costs only a forward pass."""

    stream: TokenStream
    differentiated: bool = True


@flax.struct.dataclass
class View:
    """What a layer needs to know about a group of tokens: their positions and what they see.

    Groups are the differentiated tokens (trunk first) and the others; the keys of the latter are
    the first `stem` keys of the former and their own.
    """

    position_BxL: Array
    angles: tuple[jax.Array, jax.Array]
    sight: Sight
    stem: int = flax.struct.field(pytree_node=False, default=0)
    differentiated: bool = flax.struct.field(pytree_node=False, default=True)

    def keys(self, k: jax.Array, v: jax.Array, shared: Any) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, S, G, K] that these tokens see; `shared`: the first group's."""
        if not self.stem:
            return k, v
        stem = (x[:, : self.stem] for x in shared)
        if not self.differentiated:
            stem = (jax.lax.stop_gradient(x) for x in stem)
        k, v = (jnp.concatenate(pair, axis=1) for pair in zip(stem, (k, v), strict=True))
        return k, v

    def attend(
        self, q: jax.Array, k: jax.Array, v: jax.Array, window: jax.Array | None, backend: str
    ) -> jax.Array:
        """Attention [B, L, H, K] over `keys`; `window` is that of this layer, or None."""
        sight = self.sight
        if window is not None:
            sight = tuple(span.within(window, self.position_BxL) for span in sight)
        return attend(q, k, v, sight, backend)


class Layer(nn.Module):
    """Attention and MLP of one layer for all groups of tokens: the body of the scan over layers."""

    config: DecoderConfig
    dtype: Any
    param_dtype: Any
    attention: str

    @nn.compact
    def __call__(self, hiddens, window, views):
        """hiddens: [B, L, D] of each group, in the order of `views`. Returns the same, and None:
        a scan collects nothing."""
        c = self.config
        D, H, G, K, F = c.width, c.heads, c.kv_heads, c.head_width, c.mlp_width
        weight, ones, zeros = _initialisers(c)

        def param(name, init, *shape):
            return self.param(name, init, shape, self.param_dtype)

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

        shared_kv = None
        outputs: list[jax.Array] = []
        for hidden, view in zip(hiddens, views, strict=True):
            # Freezing the outputs of a group keeps it out of the backward pass; freezing its
            # inputs as well avoids that its tangents are traced at all.
            freeze = (lambda x: x) if view.differentiated else jax.lax.stop_gradient
            w_ = jax.tree.map(freeze, w)
            q, k, v = block.project(hidden, w_, view.angles, c)
            # Made by the devices that have the tokens, then gathered, once for all groups. Left to
            # itself, libtpu has a device make all tokens of some heads, and gathers v's matrix over
            # `sequence` to that end.
            for letters in (("B", "L", "G", None), ("B", None, "G", None)):
                k, v = (nn.with_logical_constraint(x, letters) for x in (k, v))
            k, v = view.keys(k, v, shared_kv)
            if len(outputs) == 0:
                shared_kv = (k, v)
            hidden = block.add_output(hidden, view.attend(q, k, v, window, self.attention), w_, c)
            outputs.append(nn.with_logical_constraint(freeze(hidden), ("B", "L", None)))
        return tuple(outputs), None


class Decoder(nn.Module):
    """Token ids to hidden states (after the final norm); `head` turns those into logits.

    dtype is the type of the computation, param_dtype that of the stored parameters and of their
    gradients, which are summed in float32 (see `with_wide_ends`); remat names one of
    REMAT_POLICIES, attention one of `attention.BACKENDS`.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: str = "none"
    attention: str = "xla"

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
            in_axes=(0, nn.broadcast),
            out_axes=0,
            length=c.layers,
        )(c, self.dtype, self.param_dtype, self.attention)

    def __call__(
        self,
        trunk: TokenStream,
        branches: Sequence[BranchStream] = (),
        table: Branches | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Hidden states of the trunk [B, T, D] and of each stream of branches [B, L, D].

        `table` has the forks of the branches, and is required if there are any. The depth is 1 so
        far: every parent is a trunk.
        """
        T = trunk.id_BxL.shape[1]
        groups = {True: ([trunk], [trunk_sight(trunk)]), False: ([], [])}
        for branch in branches:
            assert table is not None
            streams, sights = groups[branch.differentiated]
            before = sum(s.id_BxL.shape[1] for s in streams) - (T if branch.differentiated else 0)
            sights.append(branch_sight(branch.stream, trunk, table, before))
            streams.append(branch.stream)
        tokens, views = [], []
        for differentiated, (streams, sights) in groups.items():
            if streams:
                group = _concatenate(streams)
                tokens.append(group.id_BxL)
                views.append(
                    View(
                        group.position_BxL,
                        rope_angles(group.position_BxL, self.config),
                        concatenate_sights(sights),
                        0 if differentiated else T,
                        differentiated,
                    )
                )
        hiddens = self._run(tokens, views)
        parts = {
            differentiated: _split(hidden, streams)
            for hidden, (differentiated, (streams, _)) in zip(hiddens, groups.items(), strict=False)
        }
        first, *rest = parts[True]
        outputs = {True: iter(rest), False: iter(parts.get(False, ()))}
        return first, tuple(next(outputs[branch.differentiated]) for branch in branches)

    def fresh_params(self, seed: int | jax.Array) -> Any:
        """Random parameters, normal with the `initializer_range` of the model."""
        token = TokenStream(*jnp.zeros((4, 1, 1), jnp.int32))
        return self.init(jax.random.key(seed), token)["params"]

    def _run(self, tokens, views):
        hiddens = []
        # Gathered over fsdp first. What is looked up in shares of D has shares of D too, and to lay
        # it out by rows every device would hold that of all rows.
        embedding_VxD = nn.with_logical_constraint(self.embedding, ("V", None))
        for id_BxL, view in zip(tokens, views, strict=True):
            hidden = jnp.take(embedding_VxD, id_BxL, axis=0).astype(self.dtype)
            hidden = hidden if view.differentiated else jax.lax.stop_gradient(hidden)
            hiddens.append(nn.with_logical_constraint(hidden, ("B", "L", None)))
        window_N = None
        if any(window is not None for window in self.config.windows):
            unlimited = jnp.iinfo(jnp.int32).max // 2
            window_N = jnp.asarray([w or unlimited for w in self.config.windows], jnp.int32)
        hiddens, _ = self.layers(tuple(hiddens), window_N, tuple(views))
        normed = []
        for hidden, view in zip(hiddens, views, strict=True):
            hidden = rms_norm(hidden, self.final_norm, self.config.norm_eps)
            normed.append(hidden if view.differentiated else jax.lax.stop_gradient(hidden))
        return tuple(normed)


def with_wide_ends(params: Any) -> Any:
    """The parameters to differentiate, with embedding and head in float32: their gradients are sums
    over the occurrences of a token and over chunks, and are rounded once, at the end."""
    ends = ("embedding_VxD", "head_DxV")
    return {k: p.astype(jnp.float32) if k in ends else p for k, p in params.items()}


def head_DxV(params: Any) -> jax.Array:
    """The matrix that turns hidden states into logits; the transposed embedding if tied."""
    return params["head_DxV"] if "head_DxV" in params else params["embedding_VxD"].T


def _concatenate(streams: Sequence[TokenStream]) -> TokenStream:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *streams)


def _split(hidden_BxLxD: jax.Array, streams: Sequence[TokenStream]) -> list[jax.Array]:
    ends = np.cumsum([stream.id_BxL.shape[1] for stream in streams])
    return jnp.split(hidden_BxLxD, ends[:-1], axis=1)


def _initialisers(config: DecoderConfig) -> tuple[Initializer, Initializer, Initializer]:
    return nn.initializers.normal(config.init_std), nn.initializers.ones, nn.initializers.zeros
