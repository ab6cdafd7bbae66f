"""The kernel that computes all layers for sampling on CPUs, against XLA's path."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax.models import native_layers, paging
from interact_jax.models.attention.paged import SLOTS, Pool
from interact_jax.models.decoder import Decoder
from interact_jax.models.families import DecoderConfig

# Every part that a family may have; matrices are wider than a vector, and no multiple of it.
ALL = DecoderConfig(
    model_type="mistral",
    vocab_size=75,
    width=136,
    layers=2,
    heads=6,
    kv_heads=2,
    head_width=12,
    mlp_width=152,
    norm_eps=1e-3,
    rope_theta=100.0,
    rope_scaling=None,
    tied=True,
    qk_norm=True,
    qkv_bias=True,
    o_bias=True,
    windows=(20, None),
    init_std=0.1,
    max_positions=128,
)
NONE = dataclasses.replace(  # and a head so wide that the kernel reads several rows at a time
    ALL,
    vocab_size=2100,
    tied=False,
    qk_norm=False,
    qkv_bias=False,
    o_bias=False,
    windows=(None, None),
)
LENGTHS, PAGES = (100, 3, 110), 4  # more tokens than a task multiplies; pages of a sequence


def random_params(config):
    """Norms and biases too are random: as initialised, they change nothing."""
    rng = np.random.default_rng(0)
    params = jax.jit(Decoder(config).fresh_params)(0)
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)


def arrays():
    """(id, place, table) of prompts by pages, a token for three sequences and a row of padding, a
    token for one."""
    rng = np.random.default_rng(1)
    pages = np.arange(len(LENGTHS) * PAGES, dtype=np.int32).reshape(-1, PAGES)
    parts = [(i, start) for i, n in enumerate(LENGTHS) for start in range(0, n, SLOTS)]
    place = np.full((len(parts), SLOTS), -1, np.int32)
    for row, (i, start) in enumerate(parts):
        count = min(SLOTS, LENGTHS[i] - start)
        place[row, :count] = range(start, start + count)
    steps = np.array([[LENGTHS[0]], [-1], [LENGTHS[1]], [LENGTHS[2]]], np.int32)
    for place_BxL, sequence_B in (
        (place, [i for i, _ in parts]),
        (steps, [0, 1, 1, 2]),
        (steps[2:3] + 1, [1]),
    ):
        id_BxL = rng.integers(0, ALL.vocab_size, place_BxL.shape).astype(np.int32)
        yield id_BxL, place_BxL, pages[sequence_B]


def compute(config, params, attention):
    """Hidden states of all tokens that are no padding, logits of those fed alone, and the pool's
    keys."""
    decoder = Decoder(config, attention=attention)
    calls = list(arrays())
    pool = Pool.empty(config, len(LENGTHS) * PAGES, jnp.float32, attention)

    def run(params, pool):
        hiddens = []
        for call in calls:
            hidden_BxLxD, pool = paging.extend(decoder, params, *call, pool)
            hiddens.append(hidden_BxLxD)
        logits = [paging.logits(decoder, params, hidden[:, 0]) for hidden in hiddens[1:]]
        return hiddens, logits, pool

    hiddens, logits, pool = jax.jit(run)(params, pool)
    live = [np.asarray(h)[call[1] >= 0] for h, call in zip(hiddens, calls, strict=True)]
    keys = np.asarray(pool.keys_NxUxGxKxW)[:, :, :, : config.head_width]
    logits_of_live = [
        np.asarray(x)[call[1][:, 0] >= 0] for x, call in zip(logits, calls[1:], strict=True)
    ]
    return *live, *logits_of_live, keys


@pytest.mark.parametrize(
    "config", [ALL, pytest.param(NONE, marks=pytest.mark.slow)], ids=["all", "none"]
)
def test_the_kernel_computes_what_xla_does(config):
    params = random_params(config)
    assert native_layers.can_run(Decoder(config, attention="native"), params)
    pairs = zip(compute(config, params, "native"), compute(config, params, "xla"), strict=True)
    for ours, expected in pairs:
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(ours, expected, atol=2e-5)


FILLED = {  # in bfloat16 a kernel only attends
    ("float32", "native", "all"): (),
    ("float32", "native", "none"): (),
    ("float32", "xla", "all"): (),
    ("float32", "xla", "none"): pytest.mark.slow,
    ("bfloat16", "native", "all"): (),
    ("bfloat16", "native", "none"): pytest.mark.slow,
    ("bfloat16", "xla", "all"): pytest.mark.slow,
    ("bfloat16", "xla", "none"): pytest.mark.slow,
}


@pytest.mark.parametrize(
    "dtype, attention, config", [pytest.param(*case, marks=FILLED[case]) for case in FILLED]
)
def test_filled_pages_are_those_of_extended_sequences(config, attention, dtype):
    config = {"all": ALL, "none": NONE}[config]
    params = jax.tree.map(lambda x: x.astype(dtype), random_params(config))
    decoder = Decoder(config, jnp.dtype(dtype), attention=attention)
    pool = Pool.empty(config, len(LENGTHS) * PAGES, decoder.dtype, paging.backend_of(decoder))
    prompts, *_ = arrays()
    filled = jax.jit(functools.partial(paging.fill, decoder))(params, *prompts, pool)
    _, extended = jax.jit(functools.partial(paging.extend, decoder))(params, *prompts, pool)
    # Two programs may round to bfloat16 in other places: by one step, relative to values about 1.
    bound = 1e-6 if dtype == "float32" else 2 * float(jnp.finfo(dtype).eps)
    for ours, expected in zip(jax.tree.leaves(filled), jax.tree.leaves(extended), strict=True):
        assert all(np.abs(layer).max() > 0.5 for layer in np.asarray(expected, np.float32))
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), np.asarray(expected, np.float32), rtol=bound, atol=bound
        )


def test_other_types_are_left_to_xla():
    params = random_params(NONE)
    decoder = Decoder(NONE, attention="native")
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert not native_layers.can_run(decoder, halves)
    assert not native_layers.can_run(Decoder(NONE, jnp.bfloat16, attention="native"), params)
    assert not native_layers.can_run(Decoder(NONE, attention="xla"), params)


def test_weights_are_read_where_they_lie():
    """What a step keeps beside its arguments is smaller than one matrix of a layer."""
    config = dataclasses.replace(NONE, width=256, mlp_width=512)
    decoder = Decoder(config, attention="native")
    params = jax.eval_shape(decoder.fresh_params, 0)
    pool = jax.eval_shape(lambda: Pool.empty(config, 4, jnp.float32, "native"))
    token, table = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 4), jnp.int32)

    def step(params, pool):
        hidden_BxLxD, pool = paging.extend(decoder, params, token, token, table, pool)
        return paging.logits(decoder, params, hidden_BxLxD[:, 0]), pool

    compiled = jax.jit(step, donate_argnums=1).lower(params, pool).compile()
    matrix = config.width * config.mlp_width * 4
    assert compiled.memory_analysis().temp_size_in_bytes < matrix / 4
