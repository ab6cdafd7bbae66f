"""The table of Hugging Face tensors and our parameters, with their shapes.

One rule per weight, read forwards to import and backwards to export:

    Rule("layers/q_DxHxK", "model.layers.{n}.self_attn.q_proj.weight", "HK D")

says that layer n's slice of our `q_DxHxK` is their tensor of shape [H * K, D] (torch has linear
weights as [out, in], with the heads merged): split "HK" in two, then transpose to D, H, K.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from interact_jax.models.decoder import Decoder
from interact_jax.models.families import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Rule:
    """A weight by both names. `axes` is their shape: one word per axis, with merged letters."""

    ours: str
    theirs: str  # {n} is the number of the layer
    axes: str

    @property
    def stacked(self) -> bool:
        """Whether ours holds all layers, as [N, ...], where theirs has one tensor per layer."""
        return "{n}" in self.theirs

    @property
    def letters(self) -> list[str]:
        """Our shape, without the N of the layers: "layers/q_DxHxK" -> D, H, K."""
        return self.ours.rpartition("_")[2].split("x")

    def their_names(self, config: DecoderConfig) -> list[str]:
        """The tensors of the rule; one per layer if ours is stacked."""
        return [self.theirs.format(n=n) for n in range(config.layers if self.stacked else 1)]

    def their_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of their tensor; `sizes` are those of the letters."""
        return tuple(math.prod(sizes[letter] for letter in axis) for axis in self.axes.split())

    def forwards(
        self,
        read: Callable[[tuple[slice, ...]], np.ndarray],
        index: tuple[slice, ...],
        sizes: Mapping[str, int],
    ) -> np.ndarray:
        """The part `index` of our array (one layer of it), where `read` returns parts of theirs.

        No more is read than needed, with one exception: of merged letters ("HK") only the first,
        which is the one that the mesh divides, can be cut in the file.
        """
        wanted = {
            letter: slice(*part.indices(sizes[letter])[:2])
            for letter, part in zip(self.letters, index, strict=True)
        }
        in_file, shape, inside = [], [], []
        for first, *merged in map(list, self.axes.split()):
            step = math.prod(sizes[letter] for letter in merged)
            start, stop = wanted[first].start, wanted[first].stop
            in_file.append(slice(start * step, stop * step))
            shape += [stop - start, *(sizes[letter] for letter in merged)]
            inside += [slice(None), *(wanted[letter] for letter in merged)]
        order = self.axes.replace(" ", "")
        part = read(tuple(in_file)).reshape(shape)[tuple(inside)]
        return part.transpose([order.index(letter) for letter in self.letters])

    def backwards(self, ours: np.ndarray) -> np.ndarray:
        """Their tensor from our array (one layer of it), contiguous."""
        sizes = dict(zip(self.letters, ours.shape, strict=True))
        order = [self.letters.index(letter) for letter in self.axes.replace(" ", "")]
        return np.ascontiguousarray(ours.transpose(order)).reshape(self.their_shape(sizes))


_LAYER = "model.layers.{n}."
RULES = (
    Rule("embedding_VxD", "model.embed_tokens.weight", "V D"),
    Rule("layers/attention_norm_D", _LAYER + "input_layernorm.weight", "D"),
    Rule("layers/q_DxHxK", _LAYER + "self_attn.q_proj.weight", "HK D"),
    Rule("layers/k_DxGxK", _LAYER + "self_attn.k_proj.weight", "GK D"),
    Rule("layers/v_DxGxK", _LAYER + "self_attn.v_proj.weight", "GK D"),
    Rule("layers/o_HxKxD", _LAYER + "self_attn.o_proj.weight", "D HK"),
    Rule("layers/q_bias_HxK", _LAYER + "self_attn.q_proj.bias", "HK"),
    Rule("layers/k_bias_GxK", _LAYER + "self_attn.k_proj.bias", "GK"),
    Rule("layers/v_bias_GxK", _LAYER + "self_attn.v_proj.bias", "GK"),
    Rule("layers/o_bias_D", _LAYER + "self_attn.o_proj.bias", "D"),
    Rule("layers/q_norm_K", _LAYER + "self_attn.q_norm.weight", "K"),
    Rule("layers/k_norm_K", _LAYER + "self_attn.k_norm.weight", "K"),
    Rule("layers/mlp_norm_D", _LAYER + "post_attention_layernorm.weight", "D"),
    Rule("layers/gate_DxF", _LAYER + "mlp.gate_proj.weight", "F D"),
    Rule("layers/up_DxF", _LAYER + "mlp.up_proj.weight", "F D"),
    Rule("layers/down_FxD", _LAYER + "mlp.down_proj.weight", "D F"),
    Rule("final_norm_D", "model.norm.weight", "D"),
    Rule("head_DxV", "lm_head.weight", "V D"),
)
"""Every weight of any family. The parameter tree of a model says which of them it has."""


def letter_sizes(config: DecoderConfig) -> dict[str, int]:
    """Letter of the alphabet -> its size in this model."""
    return {
        "V": config.vocab_size,
        "D": config.width,
        "N": config.layers,
        "H": config.heads,
        "G": config.kv_heads,
        "K": config.head_width,
        "F": config.mlp_width,
    }


def tensors(rules: Iterable[Rule], config: DecoderConfig) -> dict[str, tuple[Rule, int]]:
    """Their name -> its rule and layer (0 if ours is not stacked), layer by layer."""
    places: dict[str, tuple[Rule, int]] = {}
    for stacked, group in itertools.groupby(rules, key=lambda rule: rule.stacked):
        members = list(group)
        for n in range(config.layers if stacked else 1):
            places |= {rule.theirs.format(n=n): (rule, n) for rule in members}
    return places


def rules_of(config: DecoderConfig) -> Any:
    """The parameter tree of the decoder, from its own init, with a rule as each leaf."""
    rules = {rule.ours: rule for rule in RULES}
    shapes = jax.eval_shape(Decoder(config).fresh_params, 0)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: rules[jax.tree_util.keystr(path, simple=True, separator="/")], shapes
    )
