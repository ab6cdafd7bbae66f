import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from interact_jax import sharding
from interact_jax.generation import Sampler
from interact_jax.models import hf
from interact_jax.models.decoder import Decoder, head_DxV
from interact_jax.models.families import DecoderConfig
from interact_jax.schema import InputError, TokenStream
from tests.tiny import EOS, FAMILY_SIZES, tiny_model

CONFIG = DecoderConfig(
    model_type="mistral",
    vocab_size=40,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=8,
    mlp_width=24,
    norm_eps=1e-6,
    rope_theta=100.0,
    rope_scaling=None,
    tied=True,
    qk_norm=False,
    qkv_bias=False,
    o_bias=False,
    windows=(6, None),
    init_std=0.4,
    max_positions=40,
)
# Compiling is what these tests spend their time on: wherever they can, they ask for 5 to 8 prompts
# in the smallest bucket, and share one program.


@pytest.fixture(scope="module")
def decoder():
    return Decoder(CONFIG)


@pytest.fixture(scope="module")
def params(decoder):
    return jax.jit(decoder.fresh_params)(0)


@pytest.fixture(scope="module")
def sampler(decoder):
    return Sampler(decoder, [0], rows=8)


def some_prompts(lengths, vocabulary=CONFIG.vocab_size):
    rng = np.random.default_rng(0)
    return [rng.integers(3, vocabulary, size=n).tolist() for n in lengths]


@functools.partial(jax.jit, static_argnums=0)
def _logits(decoder, params, id_BxL, length):
    position_BxL = jnp.arange(id_BxL.shape[1])[None]
    segment_BxL = (position_BxL < length).astype(jnp.int32)
    stream = TokenStream(id_BxL, position_BxL, segment_BxL, jnp.zeros_like(id_BxL))
    hidden_BxLxD, _ = decoder.apply({"params": params}, stream)
    return hidden_BxLxD[0] @ head_DxV(params)


def full_logps(decoder, params, ids):
    """[L, V] log-probabilities of the next token, by a full forward without a cache."""
    padded = np.zeros((1, CONFIG.max_positions), np.int32)
    padded[0, : len(ids)] = ids
    logits = np.asarray(_logits(decoder, params, padded, len(ids)), np.float64)
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))[: len(ids)]


@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_greedy_equals_hugging_face(family, tmp_path):
    # Mistral's window is 6 tokens: shorter than all of these prompts but the first.
    model = tiny_model(tmp_path, family, tied=family == "qwen3")
    _, config = hf.load_config(tmp_path)
    params = hf.load_params(tmp_path, config, jnp.float32)
    prompts = some_prompts([1, 9, 20, 14], vocabulary=300)
    found = Sampler(Decoder(config), [EOS]).sample(
        params, prompts, max_new_tokens=14, temperature=0, seed=0
    )
    for prompt, completion in zip(prompts, found, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=14,
            do_sample=False,
            eos_token_id=EOS,
        )
        assert completion.ids == expected[0, len(prompt) :].tolist()


def test_logps_are_the_full_forwards(decoder, params):
    """At temperature 1 and over the whole vocabulary, whatever the ids were drawn with."""
    limited = Sampler(decoder, [0], vocab_limit=10)
    prompts = some_prompts([2, 17, 20, 5, 1, 9])
    for temperature in (0.0, 30.0):
        found = limited.sample(params, prompts, max_new_tokens=16, temperature=temperature, seed=1)
        for prompt, completion in zip(prompts, found, strict=True):
            assert max(completion.ids) < 10
            logps = full_logps(decoder, params, prompt + completion.ids[:-1])
            expected = logps[np.arange(len(prompt) - 1, logps.shape[0]), completion.ids]
            np.testing.assert_allclose(completion.logps, expected, atol=1e-5)


def test_eos_stops_and_is_included(decoder, params, sampler):
    prompts = some_prompts([5, 12, 3, 8, 8])
    settings = {"max_new_tokens": 16, "temperature": 1.0, "seed": 0}
    endless = sampler.sample(params, prompts, **settings)
    assert [len(completion.ids) for completion in endless] == [16] * 5
    assert not any(completion.finished for completion in endless)
    eos = endless[0].ids[4]
    stopping = Sampler(decoder, [eos, 1], rows=8).sample(params, prompts, **settings)
    for before, after in zip(endless, stopping, strict=True):
        ends = [i for i, token in enumerate(before.ids) if token in (eos, 1)]
        assert after.finished == bool(ends)
        assert after.ids == before.ids[: ends[0] + 1 if ends else None]
        assert len(after.logps) == len(after.ids)


def test_completions_do_not_depend_on_the_batch(decoder, params, sampler):
    prompts = some_prompts([3, 20, 11, 5, 18, 7, 9])
    settings = {"max_new_tokens": 16, "temperature": 1.0, "seed": 3}
    together = [completion.ids for completion in sampler.sample(params, prompts, **settings)]
    pairs = Sampler(decoder, [0], rows=2)
    assert [c.ids for c in pairs.sample(params, prompts, **settings)] == together
    order = [4, 0, 6, 2, 1]
    shuffled = sampler.sample(params, [prompts[i] for i in order], indices=order, **settings)
    assert [c.ids for c in shuffled] == [together[i] for i in order]


def test_a_completion_ends_with_the_models_context(params, sampler):
    prompts = some_prompts([31, 4, 30, 2, 2])
    found = sampler.sample(params, prompts, max_new_tokens=16, temperature=1.0, seed=3)
    assert [len(completion.ids) for completion in found] == [9, 16, 10, 16, 16]
    assert not found[0].finished


def test_there_are_slots_for_what_the_context_leaves_and_not_for_what_is_asked(decoder, params):
    sampler = Sampler(decoder, [0], rows=8)
    prompts = some_prompts([31, 4, 35, 39, 2])
    settings = {"temperature": 1.0, "seed": 3}
    found = sampler.sample(params, prompts, max_new_tokens=40, **settings)
    programs = sampler._complete._cache_size()
    assert sampler.sample(params, prompts, max_new_tokens=2**63, **settings) == found
    assert sampler._complete._cache_size() == programs
    assert [len(completion.ids) for completion in found[:4]] == [9, 36, 5, 1]


@pytest.mark.parametrize("asked", [16, 17, 10**6])
def test_the_slots_of_a_group_follow_from_its_bucket_and_are_enough(decoder, asked):
    """Whichever prompts of the bucket are there."""
    sampler, new_of = Sampler(decoder, [0]), {}
    for length in range(1, CONFIG.max_positions):
        ((_, _, slots, new),) = sampler._groups([[1] * length], asked)
        assert min(asked, CONFIG.max_positions - length) <= new
        assert new_of.setdefault(slots, new) == new
    assert len(new_of) == 2 and max(new_of.values()) < 2 * CONFIG.max_positions


def test_frequencies_follow_the_softmax(decoder, params):
    """Of pairs of tokens: both draws must be right, and independent of each other."""
    V, n, prompt = 6, 4096, [1, 2, 3]
    limited = Sampler(decoder, [0], rows=512, vocab_limit=V)

    def probabilities(ids, temperature):
        p = np.exp(full_logps(decoder, params, ids)[-1, :V] / temperature)
        return p / p.sum()

    for temperature in (4.0, 8.0):
        found = limited.sample(
            params, [prompt] * n, max_new_tokens=2, temperature=temperature, seed=5
        )
        first = probabilities(prompt, temperature)
        expected = {(0,): n * first[0]}  # the EOS
        for a in range(1, V):
            second = probabilities([*prompt, a], temperature)
            expected |= {(a, b): n * first[a] * second[b] for b in range(V)}
        observed = collections.Counter(tuple(completion.ids) for completion in found)
        assert min(expected.values()) > 5  # what the chi-squared approximation asks for
        statistic = sum((observed[c] - e) ** 2 / e for c, e in expected.items())
        assert statistic < 59.7  # 99.9 % of chi-squared with 31 - 1 degrees of freedom


def test_one_program_serves_a_bucket(decoder, params):
    sampler = Sampler(decoder, [0], rows=4)
    for seed, (lengths, new) in enumerate([([1, 30, 7], 16), ([32] * 9, 3), ([2] * 3, 1)]):
        sampler.sample(
            params, some_prompts(lengths), max_new_tokens=new, temperature=seed, seed=seed
        )
    assert sampler._complete._cache_size() == 1


def test_rows_are_shared_out_over_a_mesh(decoder, params, sampler):
    prompts = some_prompts([5, 12, 3, 1, 1])
    settings = {"max_new_tokens": 6, "temperature": 1.0, "seed": 6}
    alone = sampler.sample(params, prompts, **settings)
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    shapes = sharding.with_layout(jax.eval_shape(decoder.fresh_params, 0), mesh)
    spread = jax.device_put(params, sharding.layout_of(shapes))
    found = Sampler(decoder, [0], rows=2, mesh=mesh).sample(spread, prompts, **settings)
    assert [c.ids for c in found] == [c.ids for c in alone]


@pytest.mark.parametrize(
    ("prompts", "changed", "message"),
    [
        ([[1], []], {}, "prompt 1: 0 tokens"),
        ([[1] * 40], {}, "context of 40"),
        ([[1, 40]], {}, "has 40"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([[1]], {"temperature": -1.0}, "temperature=-1.0"),
        ([[1]], {"temperature": float("nan")}, "temperature=nan"),
    ],
)
def test_bad_requests_are_input_errors(params, sampler, prompts, changed, message):
    settings = {"max_new_tokens": 4, "temperature": 1.0, "seed": 0} | changed
    with pytest.raises(InputError, match=message):
        sampler.sample(params, prompts, **settings)


def test_a_sampler_needs_an_eos_it_can_draw(decoder):
    with pytest.raises(InputError, match="no completion could end"):
        Sampler(decoder, [12], vocab_limit=12)


def test_damaged_weights_are_an_input_error(params, sampler):
    damaged = params | {"final_norm_D": params["final_norm_D"] * jnp.nan}
    with pytest.raises(InputError, match="not finite"):
        sampler.sample(damaged, [[1, 2]] * 5, max_new_tokens=2, temperature=1.0, seed=0)
