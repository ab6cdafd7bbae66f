"""Sizes of well-known models by name, for benchmarks and plans: no download, random parameters.

Each entry follows the published config.json of the model, and is read by the same code.
"""

from __future__ import annotations

from typing import Any

from interact_jax.models.families import DecoderConfig, read_config
from interact_jax.schema import InputError


def _qwen3(D: int, N: int, H: int, F: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "vocab_size": 151_936,
        "hidden_size": D,
        "num_hidden_layers": N,
        "num_attention_heads": H,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": F,
        "tie_word_embeddings": tied,
        "rope_theta": 1e6,
        "max_position_embeddings": 40_960,
    }


def _llama(D: int, N: int, H: int, F: int, K: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": D,
        "num_hidden_layers": N,
        "num_attention_heads": H,
        "num_key_value_heads": 8,
        "head_dim": K,
        "intermediate_size": F,
        "tie_word_embeddings": tied,
        "rope_theta": 5e5,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131_072,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "small": {  # a 2-core CPU computes a step of it in a second: the benchmark's default
        "model_type": "qwen3",
        "vocab_size": 8_192,
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "intermediate_size": 1_536,
        "max_position_embeddings": 65_536,
    },
    "qwen3-0.6b": _qwen3(1_024, 28, 16, 3_072, True),
    "qwen3-1.7b": _qwen3(2_048, 28, 16, 6_144, True),
    "qwen3-4b": _qwen3(2_560, 36, 32, 9_728, True),
    "qwen3-8b": _qwen3(4_096, 36, 32, 12_288, False),
    "qwen3-14b": _qwen3(5_120, 40, 40, 17_408, False),
    "qwen3-32b": _qwen3(5_120, 64, 64, 25_600, False),
    "llama-3.2-1b": _llama(2_048, 16, 32, 8_192, 64, True),
    "llama-3.1-8b": _llama(4_096, 32, 32, 14_336, 128, False),
}


def shape(name: str, **changes: Any) -> DecoderConfig:
    """The model of this name; `changes` are keys of its config.json. Raises InputError, which lists
    the names, for another name."""
    if name not in SHAPES:
        raise InputError(f"model shape {name!r} is not known. Known shapes: {', '.join(SHAPES)}.")
    return read_config(SHAPES[name] | changes, source=f"shape {name}")
