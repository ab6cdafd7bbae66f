"""The decoder computes what Hugging Face PyTorch computes, for every family."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from interact_jax import sharding
from interact_jax.models import hf
from interact_jax.models.decoder import Decoder, head_DxV
from interact_jax.schema import TokenStream
from tests.tiny import FAMILY_SIZES, tiny_model

TOKENS = np.random.default_rng(0).integers(0, 320, (2, 40))


def log_probabilities(directory, tokens=TOKENS) -> np.ndarray:
    """[B, L, V] by our decoder, in float32."""
    _, config = hf.load_config(directory)
    params = hf.load_params(directory, config, jnp.float32)
    ones = jnp.ones(tokens.shape, jnp.int32)
    stream = TokenStream(jnp.asarray(tokens), ones.cumsum(axis=1) - 1, ones, 0 * ones)
    hidden, _ = Decoder(config).apply({"params": params}, stream)
    return np.asarray(jax.nn.log_softmax(hidden @ head_DxV(params)))


def torch_log_probabilities(model, tokens=TOKENS) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)).logits
    return torch.log_softmax(logits.float(), dim=-1).numpy()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_same_log_probabilities_as_torch(tmp_path, family, tied):
    model = tiny_model(tmp_path, family, tied, max_shard_size="50KB")
    np.testing.assert_allclose(
        log_probabilities(tmp_path), torch_log_probabilities(model), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "family, sizes",
    [
        ("llama", {"attention_bias": True}),
        ("qwen3", {"attention_bias": True}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
        ("mistral", {"sliding_window": None}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
    ],
    ids=["llama-bias", "qwen3-bias", "qwen2-window", "mistral-no-window", "llama-plain-rope"],
)
def test_same_log_probabilities_with_switches(tmp_path, family, sizes):
    model = tiny_model(tmp_path, family, **sizes)
    np.testing.assert_allclose(
        log_probabilities(tmp_path), torch_log_probabilities(model), atol=1e-5, rtol=0
    )


def test_no_device_has_the_rows_of_all(tmp_path):
    """Of a mesh: hidden states are laid out by the batch from the embedding on."""
    tiny_model(tmp_path, "llama")
    _, config = hf.load_config(tmp_path)
    decoder, mesh = Decoder(config), sharding.make_mesh(data=2, fsdp=2, tensor=2)
    B, L = 8, 40
    ids = np.ones((B, L), np.int32)
    stream = sharding.place_rows(TokenStream(ids, ids.cumsum(axis=1) - 1, ids, 0 * ids), mesh)

    def loss(params, stream):
        hidden, _ = decoder.apply({"params": params}, stream)
        return (hidden**2).sum()

    with sharding.on(mesh):
        params = sharding.with_layout(jax.eval_shape(decoder.fresh_params, 0), mesh)
        compiled = jax.jit(jax.grad(loss)).lower(params, stream).compile().as_text()
    assert f"f32[{B // 4},{L}," in compiled
    assert f"f32[{B},{L}," not in compiled
