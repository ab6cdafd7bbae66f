"""config.json is read as its family's own class reads it, or refused."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from interact_jax.models.families import FAMILIES, check_tokenizer, read_config
from interact_jax.schema import InputError

RAW = {
    "model_type": "qwen3",
    "vocab_size": 8,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": 8,
}
SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def test_default_rope_in_both_spellings():
    old = {**RAW, "rope_theta": 1e6, "rope_scaling": None}
    new = {**RAW, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    assert read_config(old) == read_config(new)
    assert read_config(new).rope_theta == 1e6


@pytest.mark.parametrize("kind", ["rope_type", "type"])
def test_scaled_rope_in_both_spellings(kind):
    old = {**RAW, "rope_theta": 5e5, "rope_scaling": {kind: "llama3", **SCALING}}
    new = {**RAW, "rope_parameters": {kind: "llama3", "rope_theta": 5e5, **SCALING}}
    assert read_config(old) == read_config(new)
    assert read_config(new).rope_scaling.factor == 8.0
    del new["rope_parameters"]["high_freq_factor"]
    with pytest.raises(InputError, match=r"RoPE scaling of type llama3 lacks 'high_freq_factor'"):
        read_config(new)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"rope_theta": 5, "rope_parameters": {"rope_theta": 6}},
            "cfg: rope_theta is 5 in one and 6 in another of rope_theta, rope_scaling and rope_pa",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "cfg: RoPE scaling of type 'yarn' is not supported. Supported: default, llama3",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            "cfg: full_attention in the RoPE parameters is not supported",
        ),
        ({"partial_rotary_factor": 0.5}, "cfg: partial_rotary_factor in the RoPE parameters is"),
        ({"hidden_act": "gelu"}, "cfg: hidden_act='gelu' is not supported for qwen3; only 'silu'"),
        ({"head_dim": ...}, "cfg: key 'head_dim' is missing, which qwen3 models need"),
        ({"num_key_value_heads": ...}, "cfg: key 'num_key_value_heads' is missing"),
        ({"hidden_size": ...}, "cfg: key 'hidden_size' is missing"),
        ({"hidden_size": "8"}, "cfg: hidden_size='8'; expected a positive whole number"),
        ({"head_dim": 0}, "cfg: head_dim=0; expected a positive whole number"),
        (
            {"num_key_value_heads": 3},
            "cfg: num_attention_heads=2 is not a multiple of num_key_value_",
        ),
        ({"model_type": "gemma3_text"}, "cfg: model_type 'gemma3_text' is not supported. Suppo"),
    ],
)
def test_what_is_not_computed_is_refused(changes, message):
    raw = {key: value for key, value in {**RAW, **changes}.items() if value is not ...}
    with pytest.raises(InputError) as caught:
        read_config(raw, "cfg")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_keys_mean_what_the_familys_class_says(family):
    """Of the keys that we let be missing; sliding windows are the ones that differ by family."""
    theirs = AutoConfig.for_model(family, **{k: v for k, v in RAW.items() if k != "model_type"})
    ours = read_config({**RAW, "model_type": family})
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.init_std == theirs.initializer_range
    sliding = theirs.sliding_window if family != "llama" else None
    assert ours.windows == (sliding,) * 2
    read_config({**theirs.to_dict(), "head_dim": 4})  # and what it writes, we read


def test_qwen_windows_begin_at_a_layer():
    switches = {"use_sliding_window": True, "sliding_window": 5}
    for more in (
        {"max_window_layers": 1},
        {"layer_types": ["full_attention", "sliding_attention"]},
    ):
        assert read_config({**RAW, **switches, **more}).windows == (None, 5)
    assert read_config({**RAW, "sliding_window": 5}).windows == (None, None)


def test_check_tokenizer():
    config = read_config({**RAW, "max_position_embeddings": 16})
    check_tokenizer(8, 16, config)
    with pytest.raises(InputError, match=r"the tokenizer has 9 tokens, .* only 8 rows"):
        check_tokenizer(9, 16, config)
    with pytest.raises(InputError, match=r"data.max_length=17: .* 16 positions"):
        check_tokenizer(8, 17, config)
