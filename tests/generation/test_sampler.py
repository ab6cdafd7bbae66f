import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.stats import chi2

from interact_jax import sharding
from interact_jax.generation import Request, Sampler, SamplingParams, requests_for
from interact_jax.generation.chat_model import text_of
from interact_jax.generation.draw import Settings, draw
from interact_jax.models import hf, paging
from interact_jax.models.attention.paged import SLOTS, Pool
from interact_jax.models.decoder import Decoder, head_DxV
from interact_jax.models.families import DecoderConfig
from interact_jax.schema import InputError, TokenStream
from tests.tiny import EOS, FAMILY_SIZES, tiny_model

pytestmark = pytest.mark.compiled_quickly

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
    max_positions=120,
)
# Compiling is what these tests spend their time on: wherever they can, they share one sampler.
BACKENDS = ("native", "xla")
one_backend = pytest.mark.parametrize(
    "decoder", ["native", pytest.param("xla", marks=pytest.mark.slow)], indirect=True
)
"""For what happens around the decoder: requests, ends, drawing, refusals."""


@pytest.fixture(scope="module", params=BACKENDS)
def decoder(request):
    return Decoder(CONFIG, attention=request.param)


@pytest.fixture(scope="module")
def params(decoder):
    return jax.jit(decoder.fresh_params)(0)


@pytest.fixture(scope="module")
def sampler(decoder, params):
    sampler = Sampler(decoder, [0], rows=8, decode=as_letters)
    sampler.load(params)
    return sampler


def as_letters(ids):
    return "".join(chr(ord("0") + i) for i in ids)


def some_prompts(lengths, vocabulary=CONFIG.vocab_size):
    rng = np.random.default_rng(0)
    return [rng.integers(3, vocabulary, size=n).tolist() for n in lengths]


def sample(sampler, prompts, seed=0, indices=None, **settings):
    return sampler.sample(requests_for(prompts, SamplingParams(**settings), seed, indices))


def sample_to_the_limit(sampler, prompts, **settings):
    """(seed, completions) of the first seed for which no completion ends by itself."""
    for seed in range(100):
        completions = sample(sampler, prompts, seed, **settings)
        if not any(completion.finished for completion in completions):
            return seed, completions
    raise AssertionError("all seeds end some completion")


@functools.partial(jax.jit, static_argnums=0)
def _logits(decoder, params, id_BxL, length):
    position_BxL = jnp.arange(id_BxL.shape[1])[None]
    segment_BxL = (position_BxL < length).astype(jnp.int32)
    stream = TokenStream(id_BxL, position_BxL, segment_BxL, jnp.zeros_like(id_BxL))
    hidden_BxLxD, _ = decoder.apply({"params": params}, stream)
    return hidden_BxLxD[0] @ head_DxV(params)


def full_logps(decoder, params, ids):
    """[L, V] log-probabilities of the next token, by a full forward without pages."""
    padded = np.zeros((1, 120), np.int32)
    padded[0, : len(ids)] = ids
    logits = np.asarray(_logits(decoder, params, padded, len(ids)), np.float64)
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))[: len(ids)]


def logps_of_ids(decoder, params, prompt, ids):
    logps = full_logps(decoder, params, prompt + ids[:-1])
    return logps[np.arange(len(prompt) - 1, len(logps)), ids]


# ------------------------------------------------------------------------------ the right tokens


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in ("qwen3", "mistral") else pytest.mark.slow)
        for family in FAMILY_SIZES
    ],
)
def test_greedy_equals_hugging_face(family, tmp_path):
    """Of every family, with unequal lengths, more requests than rows, and a prompt that two share;
    the log-probabilities are those of a full forward."""
    # Mistral's window is 6 tokens: shorter than all of these prompts but the first.
    model = tiny_model(tmp_path, family, tied=family == "qwen3")
    _, config = hf.load_config(tmp_path)
    params = hf.load_params(tmp_path, config, jnp.float32)
    prompts = some_prompts([1, 9, 20, 14, 70], vocabulary=300)
    prompts.append(prompts[4][:40] + prompts[2])
    decoder = Decoder(config, attention="native")
    sampler = Sampler(decoder, [EOS], rows=4)
    sampler.load(params)
    completions = sample(sampler, prompts, max_new_tokens=14, temperature=0.0)
    for prompt, completion in zip(prompts, completions, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=14,
            do_sample=False,
            eos_token_id=EOS,
        )
        assert completion.ids == expected[0, len(prompt) :].tolist()
        logps = logps_of_ids(decoder, params, prompt, completion.ids)
        np.testing.assert_allclose(completion.logps, logps, atol=1e-4)
        assert completion.sampling_logps == [0.0] * len(completion.ids)


def test_logps_are_the_full_forwards(decoder, params):
    """At temperature 1 and over the whole vocabulary, whatever the ids were drawn with."""
    limited = Sampler(decoder, [0], rows=8, vocab_limit=10)
    limited.load(params)
    prompts = some_prompts([2, 17, 40, 5, 1, 33])
    for temperature in (0.0, 30.0):
        completions = sample(limited, prompts, 1, max_new_tokens=40, temperature=temperature)
        for prompt, completion in zip(prompts, completions, strict=True):
            assert max(completion.ids) < 10
            expected = logps_of_ids(decoder, params, prompt, completion.ids)
            np.testing.assert_allclose(completion.logps, expected, atol=1e-5)


def kept(p_V, top_k=0, top_p=1.0, min_p=0.0):
    """The probabilities that are left, by sorting: the definition."""
    order = np.argsort(-p_V)
    if top_k:
        order = order[:top_k]
    share = np.cumsum(p_V[order]) / p_V[order].sum()
    order = order[: int(np.sum(share < top_p)) + 1]
    order = order[p_V[order] >= min_p * p_V.max()]
    left = np.zeros_like(p_V)
    left[order] = p_V[order]
    return left / left.sum()


METHODS = {
    "plain": {},
    "hot": {"temperature": 4.0},
    "top_k": {"top_k": 3, "temperature": 2.0},
    "top_p": {"top_p": 0.8, "temperature": 2.0},
    "min_p": {"min_p": 0.2, "temperature": 2.0},
    "all": {"top_k": 9, "top_p": 0.9, "min_p": 0.1, "temperature": 3.0},
}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=() if method in ("plain", "all") else pytest.mark.slow)
        for method in METHODS
    ],
)
def test_frequencies_are_those_of_the_distribution(method):
    """20,000 draws of each method, by the chi-square test; the log-probabilities are exact."""
    V, n, settings = 600, 20_000, {"temperature": 1.0, **METHODS[method]}
    logits_V = np.random.default_rng(1).normal(0, 1.5, V).astype(np.float32)
    logits_V[V - 50 :] += 20  # beyond the vocabulary: never drawn
    chosen = {name: settings.get(name, off) for name, off in OFF.items()}
    rows = Settings(
        *(np.full(n, chosen[name]) for name in ("temperature", "top_k", "top_p", "min_p")),
        np.stack([np.full(n, 7, np.uint32), np.arange(n, dtype=np.uint32)], axis=1),
    )
    logits_BxV = jnp.broadcast_to(logits_V, (n, V))
    ids, logps, sampling_logps = jax.jit(draw, static_argnums=3)(
        logits_BxV, np.zeros(n, np.int32), rows, V - 50
    )
    wide = logits_V.astype(np.float64)
    p_V = np.exp(wide[: V - 50] / settings.pop("temperature"))
    p_V = kept(p_V / p_V.sum(), **settings)
    np.testing.assert_allclose(sampling_logps, np.log(p_V[ids]), atol=1e-5)
    np.testing.assert_allclose(logps, wide[ids] - np.logaddexp.reduce(wide), atol=1e-5)
    observed = np.bincount(ids, minlength=V - 50)
    assert not observed[p_V == 0].any()
    often = n * p_V > 5  # what the chi-squared approximation asks for; the others count as one
    counts = [*observed[often], observed[~often].sum()], [*(n * p_V[often]), n * p_V[~often].sum()]
    statistic = sum((o - e) ** 2 / e for o, e in zip(*counts, strict=True) if e > 0)
    freedom = int(often.sum()) - (n * p_V[~often].sum() == 0)
    assert statistic < chi2.ppf(0.999, max(1, freedom))


OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def test_equal_weights_are_kept_together():
    logits_BxV = jnp.asarray([[2.0, 1.0, 1.0, 1.0, 0.0]] * 200)
    rows = Settings(
        np.ones(200, np.float32),
        np.full(200, 2),
        np.ones(200, np.float32),
        np.zeros(200, np.float32),
        np.stack([np.zeros(200, np.uint32), np.arange(200, dtype=np.uint32)], axis=1),
    )
    ids, _, _ = draw(logits_BxV, np.zeros(200, np.int32), rows, 5)
    assert set(ids.tolist()) == {0, 1, 2, 3}


def test_the_first_of_equally_likely_tokens_is_the_greedy_one():
    logits_BxV = jnp.asarray([[0.0, 2.0, 1.0, 2.0], [-jnp.inf, -3.0, -3.0, 9.0], [jnp.nan] * 4])
    off = np.zeros(3, np.float32)
    rows = Settings(off, off.astype(int), off + 1, off, np.zeros((3, 2), np.uint32))
    ids, logps, _ = draw(logits_BxV, np.zeros(3, np.int32), rows, 3)
    assert ids.tolist()[:2] == [1, 1] and 0 <= ids[2] < 4
    assert np.isnan(logps[2])


@one_backend
def test_tokens_in_a_row_are_independent_draws(decoder, params):
    """Frequencies of pairs follow the softmax after one and after two tokens."""
    V, n, prompt, temperature = 6, 4096, [1, 2, 3], 6.0
    limited = Sampler(decoder, [0], rows=512, vocab_limit=V)
    limited.load(params)

    def probabilities(ids):
        p = np.exp(full_logps(decoder, params, ids)[-1, :V] / temperature)
        return p / p.sum()

    completions = sample(limited, [prompt] * n, 5, max_new_tokens=2, temperature=temperature)
    first = probabilities(prompt)
    expected = {(0,): n * first[0]}  # the EOS
    for a in range(1, V):
        second = probabilities([*prompt, a])
        expected |= {(a, b): n * first[a] * second[b] for b in range(V)}
    observed = collections.Counter(tuple(completion.ids) for completion in completions)
    assert min(expected.values()) > 5
    statistic = sum((observed[c] - e) ** 2 / e for c, e in expected.items())
    assert statistic < chi2.ppf(0.999, 30)


# ------------------------------------------------------------------------------------- the ends


@one_backend
def test_eos_stops_and_is_included(decoder, params, sampler):
    prompts = some_prompts([5, 12, 3, 8, 8])
    seed, endless = sample_to_the_limit(sampler, prompts, max_new_tokens=16)
    assert [len(completion.ids) for completion in endless] == [16] * 5
    eos = endless[0].ids[4]
    stopping = Sampler(decoder, [eos, 1], rows=8)
    stopping.load(params)
    again = sample(stopping, prompts, seed, max_new_tokens=16)
    for before, after in zip(endless, again, strict=True):
        ends = [i for i, token in enumerate(before.ids) if token in (eos, 1)]
        assert after.finished == bool(ends)
        assert after.ids == before.ids[: ends[0] + 1 if ends else None]
        assert len(after.logps) == len(after.sampling_logps) == len(after.ids)


@one_backend
def test_stop_texts_end_a_reply_with_the_token_that_completes_them(sampler):
    prompts = some_prompts([5, 12, 3])
    seed, endless = sample_to_the_limit(sampler, prompts, max_new_tokens=30)
    wanted = as_letters(endless[0].ids[11:13])
    at = as_letters(endless[0].ids).index(wanted)
    stopped = sample(sampler, prompts, seed, max_new_tokens=30, stop=(wanted, "nowhere"))
    assert stopped[0].ids == endless[0].ids[: at + 2]
    assert stopped[0].stopped and not stopped[0].finished
    # Not to the last bit: the prompt is there now, and was computed among others before.
    np.testing.assert_allclose(stopped[0].logps, endless[0].logps[: at + 2], atol=1e-5)
    assert text_of(stopped[0], Letters, (wanted,)) == as_letters(endless[0].ids[:at])
    for before, after in zip(endless[1:], stopped[1:], strict=True):
        assert after.stopped == (wanted in as_letters(before.ids))


class Letters:
    decode = staticmethod(as_letters)


@one_backend
def test_a_completion_ends_with_the_models_context(sampler):
    prompts = some_prompts([111, 4, 110, 119, 2])
    _, completions = sample_to_the_limit(sampler, prompts, max_new_tokens=16)
    assert [len(completion.ids) for completion in completions] == [9, 16, 10, 1, 16]


# ------------------------------------------------------------------------ what is kept and shared


def test_completions_do_not_depend_on_the_others(decoder, params, sampler):
    """Neither on how many are sampled at a time, nor on their order, nor on what is kept."""
    prompts = some_prompts([3, 40, 11, 5, 90, 7, 33, 64, 65, 2, 40])
    together = [c.ids for c in sample(sampler, prompts, 3, max_new_tokens=20)]
    pairs = Sampler(decoder, [0], rows=2)
    pairs.load(params)
    assert [c.ids for c in sample(pairs, prompts, 3, max_new_tokens=20)] == together
    assert [c.ids for c in sample(pairs, prompts, 3, max_new_tokens=20)] == together
    order = [4, 0, 6, 2, 1]
    shuffled = sample(sampler, [prompts[i] for i in order], 3, order, max_new_tokens=20)
    assert [c.ids for c in shuffled] == [together[i] for i in order]


@one_backend
def test_requests_with_settings_of_their_own_share_a_batch(sampler):
    prompts = some_prompts([9, 30, 50])
    settings = [
        SamplingParams(5, temperature=0.0),
        SamplingParams(33, top_k=2),
        SamplingParams(12, top_p=0.5, temperature=2.0),
    ]
    requests = [
        Request(*pair, seed) for seed, pair in enumerate(zip(prompts, settings, strict=True))
    ]
    together = [completion.ids for completion in sampler.sample(requests)]
    assert len({len(ids) for ids in together}) > 1
    assert [sampler.sample([request])[0].ids for request in requests] == together


@one_backend
def test_what_prompts_have_in_common_is_computed_once(sampler, params):
    base, *tails = some_prompts([64, 9, 17])
    sampler.load(params)
    sampler.filled = 0
    sample(sampler, [base + tails[0]] * 5, max_new_tokens=3)
    assert sampler.filled == 64 + 8  # the last token of a prompt is fed to draw the first
    sample(sampler, [base + tails[1]], max_new_tokens=3)
    assert sampler.filled == 64 + 8 + 16
    sampler.load(params)  # new weights: nothing is known
    sample(sampler, [base + tails[1]], max_new_tokens=3)
    assert sampler.filled == 64 + 8 + 16 + 80


@one_backend
def test_a_reply_is_not_computed_again_as_history(sampler, params):
    (prompt,) = some_prompts([40])
    sampler.load(params)
    (completion,) = sample(sampler, [prompt], max_new_tokens=40)
    sampler.filled = 0
    longer = [*prompt, *completion.ids, 7, 8, 9]
    again = sample(sampler, [longer], max_new_tokens=10)
    assert sampler.filled == len(longer) - 1 - 64  # two full pages are there
    sampler.load(params)
    assert [c.ids for c in sample(sampler, [longer], max_new_tokens=10)] == [c.ids for c in again]


@one_backend
def test_little_room_makes_requests_wait_and_changes_nothing(decoder, params, sampler):
    prompts = some_prompts([40, 90, 3, 64, 33, 20, 100])
    expected = [c.ids for c in sample(sampler, prompts, max_new_tokens=20)]
    page = 4 * 2 * 2 * SLOTS * 2 * (16 if decoder.attention == "native" else 8)  # k, v; N G W K
    narrow = Sampler(decoder, [0], rows=8, room=5.5 * page)
    narrow.load(params)
    assert [c.ids for c in sample(narrow, prompts, max_new_tokens=20)] == expected
    assert narrow._pages[0].count == 5
    (cut,) = sample(narrow, some_prompts([119]), max_new_tokens=10**6)
    assert len(cut.ids) == 1, "room is for the model's context, not for all that is asked"
    with pytest.raises(InputError, match="there is room for the keys and values of 32"):
        tight = Sampler(decoder, [0], room=1.5 * page)
        tight.load(params)
        sample(tight, prompts, max_new_tokens=20)


@one_backend
def test_replies_are_shown_as_they_grow(sampler):
    seen = collections.defaultdict(list)
    done = {}
    prompts = some_prompts([5, 12])
    seed, _ = sample_to_the_limit(sampler, prompts, max_new_tokens=30)
    requests = requests_for(prompts, SamplingParams(30), seed)
    completions = sampler.sample(
        requests,
        lambda place, completion: done.setdefault(place, completion),
        look=lambda place, ids: seen[place].append(list(ids)),
    )
    assert [done[0], done[1]] == completions
    for place, completion in enumerate(completions):
        assert len(seen[place]) > 2
        assert all(ids == completion.ids[: len(ids)] for ids in seen[place])


@one_backend
def test_who_reads_along_may_see_every_token_and_end_a_reply(sampler):
    """The others go on, and the ended one is what it would have been up to there."""
    prompts, seen = some_prompts([5, 12]), []
    seed, whole = sample_to_the_limit(sampler, prompts, max_new_tokens=30)

    def look(place, ids):
        if place == 0:
            seen.append(len(ids))
        return place == 0 and len(ids) == 5

    requests = requests_for(prompts, SamplingParams(30), seed)
    ended, other = sampler.sample(requests, look=look, look_every=1)
    assert seen == [1, 2, 3, 4, 5]
    assert ended.ids == whole[0].ids[:5] and other.ids == whole[1].ids
    assert not ended.finished and not ended.stopped
    for logps, expected in ((ended.logps, whole[0].logps), (ended.sampling_logps, whole[0].logps)):
        np.testing.assert_allclose(logps, expected[:5], atol=1e-4)
    assert [c.ids for c in sampler.sample(requests)] == [c.ids for c in whole]  # from its pages


def test_rows_are_shared_out_over_a_mesh(decoder, params, sampler):
    prompts = some_prompts([5, 40, 3, 1, 90, 40])
    alone = sample(sampler, prompts, 6, max_new_tokens=8)
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    shapes = sharding.with_layout(jax.eval_shape(decoder.fresh_params, 0), mesh)
    spread = jax.device_put(params, sharding.layout_of(shapes))
    shared = Sampler(decoder, [0], rows=4, mesh=mesh)
    shared.load(spread)
    completions = sample(shared, [*prompts, prompts[4]], 6, max_new_tokens=8)
    assert [c.ids for c in completions[:6]] == [c.ids for c in alone]


@one_backend
def test_a_mesh_that_the_caller_has_set_is_not_the_samplers(decoder, params, sampler):
    prompts = some_prompts([5, 40])
    alone = sample(sampler, prompts, 6, max_new_tokens=8)
    with sharding.on(sharding.make_mesh(data=4, tensor=2)):
        inside = Sampler(decoder, [0], rows=2)
        inside.load(params)
        assert [c.ids for c in sample(inside, prompts, 6, max_new_tokens=8)] == [
            c.ids for c in alone
        ]


def test_a_table_with_a_page_that_is_not_there_is_refused():
    """The kernel in C++ reads and writes nothing outside its pool."""
    decoder = Decoder(CONFIG, attention="native")
    pool = Pool.empty(CONFIG, 3, jnp.float32, "native")
    for place, page in ((0, 3), (0, -1), (SLOTS, 0)):
        with pytest.raises(Exception, match="no such page"):
            jax.block_until_ready(
                paging.extend(
                    decoder,
                    jax.jit(decoder.fresh_params)(0),
                    np.ones((1, 1), np.int32),
                    np.full((1, 1), place, np.int32),
                    np.full((1, 1), page, np.int32),
                    pool,
                )
            )


# ------------------------------------------------------------------------------- what is refused


@one_backend
@pytest.mark.parametrize(
    ("prompts", "changed", "message"),
    [
        ([[1], []], {}, "prompt 1: 0 tokens"),
        ([[1] * 120], {}, "context of 120"),
        ([[1, 40]], {}, "has 40"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([[1]], {"temperature": -1.0}, "temperature=-1.0"),
        ([[1]], {"temperature": float("nan")}, "temperature=nan"),
        ([[1]], {"top_p": 0.0}, "top_p=0.0"),
        ([[1]], {"top_k": -1}, "top_k=-1"),
        ([[1]], {"min_p": 1.5}, "min_p=1.5"),
        ([[1]], {"stop": ("",)}, "empty text"),
    ],
)
def test_bad_requests_are_input_errors(sampler, prompts, changed, message):
    with pytest.raises(InputError, match=message):
        sample(sampler, prompts, **{"max_new_tokens": 4} | changed)


@one_backend
def test_stop_texts_need_a_tokenizer(decoder, params):
    with pytest.raises(InputError, match="no tokenizer"):
        mute = Sampler(decoder, [0])
        mute.load(params)
        sample(mute, [[1]], stop=("a",))


@one_backend
def test_a_sampler_needs_an_eos_it_can_draw(decoder):
    with pytest.raises(InputError, match="no completion could end"):
        Sampler(decoder, [12], vocab_limit=12)


@one_backend
def test_damaged_weights_are_an_input_error(params, sampler):
    sampler.load(params | {"final_norm_D": params["final_norm_D"] * jnp.nan})
    with pytest.raises(InputError, match="not finite"):
        sample(sampler, [[1, 2]] * 5, max_new_tokens=2)
    sampler.load(params)
    assert sample(sampler, [[1, 2]], max_new_tokens=2)  # and all is well afterwards
