"""What distinguishes the model families, read from a Hugging Face `config.json`.

One decoder serves them all; a family is a few switches. Both spellings of `config.json` are
read: `rope_theta` + `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from interact_jax.json_files import FLAG, OBJECT, TEXT, check, list_of, number, one_of, short, whole
from interact_jax.schema import InputError


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's scaling of the slow RoPE frequencies to contexts `factor` times as long."""

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
"""`model_type` in config.json -> the class that it names."""


POSITIONS = whole(1, 1 << 40)
ATTENTION = one_of("full_attention", "sliding_attention")
KINDS = {  # sizes of the largest models known: 16,384 wide, 126 layers, 128 heads, 53,248, 262,144
    "hidden_size": whole(1, 1 << 17),
    "num_hidden_layers": whole(1, 1024),
    "num_attention_heads": whole(1, 1024),
    "num_key_value_heads": whole(1, 1024).or_null(),
    "head_dim": whole(1, 4096).or_null(),
    "intermediate_size": whole(1, 1 << 20),
    "vocab_size": whole(1, 1 << 23),
    "max_position_embeddings": POSITIONS,
    "rms_norm_eps": number(least=0, most=1),
    "initializer_range": number(least=0, most=100),
    "rope_theta": number(above=0),
    "partial_rotary_factor": number(above=0, most=1).or_null(),
    "rope_scaling": OBJECT.or_null(),
    "rope_parameters": OBJECT.or_null(),
    "sliding_window": POSITIONS.or_null(),
    "max_window_layers": whole(0, 1 << 20),
    "use_sliding_window": FLAG,
    "layer_types": list_of(ATTENTION).or_null(),
    "tie_word_embeddings": FLAG,
    "attention_bias": FLAG,
    "mlp_bias": FLAG,
    "hidden_act": TEXT,
}
"""Keys of config.json that determine the computation, and what they may be."""
ROPE_KINDS = {
    "type": TEXT,
    "rope_type": TEXT,
    "rope_theta": number(above=0),
    "partial_rotary_factor": KINDS["partial_rotary_factor"],
    "factor": number(above=0),
    "low_freq_factor": number(above=0),
    "high_freq_factor": number(above=0),
    "original_max_position_embeddings": POSITIONS,
}
MOST_PARAMETERS = 10**13  # the largest known model of these families has 4e11


def read_config(raw: Mapping[str, Any], source: str = "config.json") -> DecoderConfig:
    """Read a parsed `config.json`; `source` names it in errors.

    Raises InputError for a family or a feature that the decoder does not compute (a model that is
    nearly right is worse than none), and for sizes that no model has, before anything is allocated.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        code = " It needs code of its own (auto_map), which is never run." * ("auto_map" in raw)
        raise InputError(
            f"{source}: model_type {short(model_type)} is not supported. "
            f"Supported: {', '.join(FAMILIES)} (Qwen3, Qwen2.5, Llama 3, Mistral).{code}"
        )
    check(raw, KINDS, source)

    def need(key: str) -> int:
        value = raw.get(key)
        if value is None:
            raise InputError(f"{source}: key {key!r} is missing, which {model_type} models need.")
        return value

    def refuse(key: str, expected: Any) -> None:
        given = raw.get(key, expected)
        if given != expected:
            raise InputError(
                f"{source}: {key}={short(given)} is not supported for {model_type}; "
                f"only {expected!r} is computed."
            )

    refuse("hidden_act", "silu")
    refuse("mlp_bias", False)
    refuse("quantization_config", None)
    width, heads, layers = map(need, ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    # Null means the value computed below; a missing key would mean that of some larger model.
    explicit = {"llama": (), "qwen3": ("num_key_value_heads", "head_dim")}
    for key in explicit.get(model_type, ("num_key_value_heads",)):
        if key not in raw:
            need(key)
    kv_heads = raw.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise InputError(
            f"{source}: num_attention_heads={heads} is not a multiple of num_key_value_heads="
            f"{kv_heads}, so they cannot share keys evenly."
        )
    bias = raw.get("attention_bias", False)
    theta, scaling = _rope(raw, source)
    config = DecoderConfig(
        model_type=model_type,
        vocab_size=need("vocab_size"),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=raw.get("head_dim") or _head_width(width, heads, source),
        mlp_width=need("intermediate_size"),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=raw.get("tie_word_embeddings", False),
        qk_norm=model_type == "qwen3",
        qkv_bias=True if model_type == "qwen2" else bias,
        o_bias=False if model_type == "qwen2" else bias,
        windows=_windows(raw, model_type, layers, source),
        init_std=raw.get("initializer_range", 0.02),
        max_positions=raw.get("max_position_embeddings", 1 << 30),
    )
    if config.head_width % 2:
        raise InputError(
            f"{source}: heads of {config.head_width} numbers (head_dim, or hidden_size / "
            "num_attention_heads); RoPE turns them in pairs."
        )
    if (count := _parameters(config)) > MOST_PARAMETERS:
        raise InputError(
            f"{source}: a model of {count:.1e} parameters by its sizes; expected at most "
            f"{MOST_PARAMETERS:.0e}."
        )
    return config


def _head_width(width: int, heads: int, source: str) -> int:
    if width % heads:
        raise InputError(
            f"{source}: hidden_size={width} is not a multiple of num_attention_heads={heads}, and "
            "head_dim does not say how wide a head is."
        )
    return width // heads


def _parameters(config: DecoderConfig) -> int:
    """The number of parameters in matrices."""
    attention = 2 * (config.heads + config.kv_heads) * config.head_width
    layer = config.width * (attention + 3 * config.mlp_width)
    return config.layers * layer + (1 if config.tied else 2) * config.vocab_size * config.width


def _rope(raw: Mapping[str, Any], source: str) -> tuple[float, Llama3Rope | None]:
    rope: dict[str, Any] = {}
    top = {key: raw[key] for key in ("rope_theta", "partial_rotary_factor") if key in raw}
    for spelling in (top, raw.get("rope_scaling") or {}, raw.get("rope_parameters") or {}):
        check(spelling, ROPE_KINDS, f"{source}: RoPE parameters")
        for key, value in spelling.items():
            key = "rope_type" if key == "type" else key
            if rope.setdefault(key, value) != value:
                raise InputError(
                    f"{source}: {key} is {short(rope[key])} in one and {short(value)} in another "
                    "of rope_theta, rope_scaling and rope_parameters. Which one holds depends on "
                    "the version of transformers: delete the wrong one."
                )
    nested = [key for key, value in rope.items() if isinstance(value, Mapping)]
    if nested or (rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise InputError(
            f"{source}: {nested[0] if nested else 'partial_rotary_factor'} in the RoPE parameters "
            "is not supported; one rotation for all layers and whole heads is computed."
        )
    theta = float(rope.get("rope_theta", 10_000.0))
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return theta, None
    if kind == "llama3":
        try:
            scaling = Llama3Rope(
                factor=float(rope["factor"]),
                low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
                original_length=rope["original_max_position_embeddings"],
            )
        except KeyError as missing:
            raise InputError(f"{source}: RoPE scaling of type llama3 lacks {missing}.") from None
        if scaling.low_freq_factor >= scaling.high_freq_factor:
            raise InputError(
                f"{source}: RoPE parameters: low_freq_factor={scaling.low_freq_factor} is not "
                f"below high_freq_factor={scaling.high_freq_factor}."
            )
        return theta, scaling
    raise InputError(
        f"{source}: RoPE scaling of type {short(kind)} is not supported. "
        "Supported: default, llama3."
    )


def _windows(
    raw: Mapping[str, Any], model_type: str, layers: int, source: str
) -> tuple[int | None, ...]:
    """The sliding window of each layer, or None, by the rules of each family's own code."""
    types = raw.get("layer_types")
    if types is not None and len(types) != layers:
        raise InputError(
            f"{source}: layer_types has {len(types)} entries for num_hidden_layers={layers}."
        )
    window = raw.get("sliding_window", 4096)  # null means none, a missing key 4096
    if model_type == "llama" or window is None:
        return (None,) * layers
    if model_type == "mistral":
        return (window,) * layers
    if not raw.get("use_sliding_window", False):  # Qwen: there is a number, but the switch is off
        return (None,) * layers
    if types is None:
        first = raw.get("max_window_layers", 28)
        types = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def check_tokenizer(tokens: int, max_length: int, config: DecoderConfig) -> None:
    """Raise InputError if a tokenizer with ids below `tokens`, or sequences of `max_length`, do not
    fit a model."""
    if tokens > config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokens} tokens, by its largest id, the model's embedding only "
            f"{config.vocab_size} rows: they do not belong together. Set model.path or "
            "model.tokenizer to one that fits."
        )
    if max_length > config.max_positions:
        raise InputError(
            f"data.max_length={max_length}: the model was made for {config.max_positions} "
            "positions (max_position_embeddings). "
            f"Set data.max_length to {config.max_positions} or less."
        )
