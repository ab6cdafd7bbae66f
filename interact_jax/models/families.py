"""What distinguishes the model families, read from a Hugging Face `config.json`.

One decoder serves them all; a family is a handful of switches. Both spellings of `config.json` are
read: `rope_theta` + `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from interact_jax.schema import InputError


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's stretching of the slow RoPE frequencies to contexts `factor` times as long."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of a decoder; the letters are those of the alphabet in `schema`."""

    model_type: str
    vocab_size: int  # V, rows of the embedding (may exceed the tokenizer's)
    width: int  # D
    layers: int  # N
    heads: int  # H
    kv_heads: int  # G
    head_width: int  # K
    mlp_width: int  # F
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Rope | None
    tied: bool  # the head is the embedding transposed
    qk_norm: bool  # RMS norm of every query and key head (Qwen3)
    qkv_bias: bool  # Qwen2.5
    o_bias: bool
    windows: tuple[int | None, ...]  # per layer: keys a query sees, itself included; None = all
    init_std: float
    max_positions: int


FAMILIES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
}
"""`model_type` of config.json -> the class that it names."""


def read_config(raw: Mapping[str, Any], source: str = "config.json") -> DecoderConfig:
    """Read a parsed `config.json`; `source` names it in errors.

    Raises InputError for a family or a feature that the decoder does not compute: a model that is
    nearly right is worse than none.
    """
    model_type = raw.get("model_type")
    if model_type not in FAMILIES:
        raise InputError(
            f"{source}: model_type {model_type!r} is not supported. "
            f"Supported: {', '.join(FAMILIES)} (Qwen3, Qwen2.5, Llama 3, Mistral)."
        )

    def need(key: str) -> int:
        value = size(key)
        if value is None:
            raise InputError(f"{source}: key {key!r} is missing, which {model_type} models need.")
        return value

    def size(key: str) -> int | None:
        value = raw.get(key)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{source}: {key}={value!r}; expected a positive whole number.")
        return value

    def refuse(key: str, expected: Any) -> None:
        given = raw.get(key, expected)
        if given != expected:
            raise InputError(
                f"{source}: {key}={given!r} is not supported for {model_type}; "
                f"only {expected!r} is computed."
            )

    refuse("hidden_act", "silu")
    refuse("mlp_bias", False)
    refuse("quantization_config", None)
    width, heads, layers = map(need, ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    # Null means what is computed below; a missing key would be the number of some larger model.
    explicit = {"llama": (), "qwen3": ("num_key_value_heads", "head_dim")}
    for key in explicit.get(model_type, ("num_key_value_heads",)):
        if key not in raw:
            need(key)
    kv_heads = size("num_key_value_heads") or heads
    if heads % kv_heads:
        raise InputError(
            f"{source}: num_attention_heads={heads} is no multiple of num_key_value_heads="
            f"{kv_heads}, so they cannot share keys evenly."
        )
    bias = bool(raw.get("attention_bias", False))
    theta, scaling = _rope(raw, source)
    return DecoderConfig(
        model_type=model_type,
        vocab_size=need("vocab_size"),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=size("head_dim") or width // heads,
        mlp_width=need("intermediate_size"),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=bool(raw.get("tie_word_embeddings", False)),
        qk_norm=model_type == "qwen3",
        qkv_bias=True if model_type == "qwen2" else bias,
        o_bias=False if model_type == "qwen2" else bias,
        windows=_windows(raw, model_type, layers),
        init_std=raw.get("initializer_range", 0.02),
        max_positions=raw.get("max_position_embeddings", 1 << 30),
    )


def _rope(raw: Mapping[str, Any], source: str) -> tuple[float, Llama3Rope | None]:
    rope: dict[str, Any] = {}
    top = {key: raw[key] for key in ("rope_theta", "partial_rotary_factor") if raw.get(key)}
    for spelling in (top, raw.get("rope_scaling") or {}, raw.get("rope_parameters") or {}):
        for key, value in spelling.items():
            key = "rope_type" if key == "type" else key
            if rope.setdefault(key, value) != value:
                raise InputError(
                    f"{source}: {key} is {rope[key]!r} in one and {value!r} in another of "
                    "rope_theta, rope_scaling and rope_parameters. Which one holds depends on the "
                    "version of transformers: delete the wrong one."
                )
    nested = [key for key, value in rope.items() if isinstance(value, Mapping)]
    if nested or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(
            f"{source}: {nested[0] if nested else 'partial_rotary_factor'} in the RoPE parameters "
            "is not supported; one rotation for all layers and whole heads is computed."
        )
    theta = float(rope.get("rope_theta") or 10_000.0)
    kind = rope.get("rope_type") or "default"
    if kind == "default":
        return theta, None
    if kind == "llama3":
        try:
            return theta, Llama3Rope(
                factor=float(rope["factor"]),
                low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
                original_length=int(rope["original_max_position_embeddings"]),
            )
        except KeyError as missing:
            raise InputError(f"{source}: RoPE scaling of type llama3 lacks {missing}.") from None
    raise InputError(
        f"{source}: RoPE scaling of type {kind!r} is not supported. Supported: default, llama3."
    )


def _windows(raw: Mapping[str, Any], model_type: str, layers: int) -> tuple[int | None, ...]:
    """Which layers look at a sliding window only, by the rules of each family's own code."""
    window = raw.get("sliding_window", 4096)  # null is none; 4096 where the key is missing
    if model_type == "llama" or window is None:
        return (None,) * layers
    if model_type == "mistral":
        return (int(window),) * layers
    if not raw.get("use_sliding_window", False):  # Qwen: the number is there, the switch is off
        return (None,) * layers
    types = raw.get("layer_types")
    if types is None:
        first = raw.get("max_window_layers", 28)
        types = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    return tuple(int(window) if kind == "sliding_attention" else None for kind in types)


def check_tokenizer(tokens: int, max_length: int, config: DecoderConfig) -> None:
    """Raise InputError where a tokenizer of so many tokens, or such lengths, do not fit a model."""
    if tokens > config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokens} tokens, the model's embedding only {config.vocab_size} "
            "rows: they do not belong together. Set model.path or model.tokenizer to one that fits."
        )
    if max_length > config.max_positions:
        raise InputError(
            f"data.max_length={max_length}: the model was made for {config.max_positions} "
            "positions (max_position_embeddings). "
            f"Set data.max_length to {config.max_positions} or less."
        )
