"""What the compiled gradient needs beside its arguments, by the compiler's own figure."""

import functools

import jax
import jax.numpy as jnp
import pytest

from interact_jax import run_state, scoring, train
from interact_jax.config import default, override
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.methods import method_of
from interact_jax.models.decoder import Decoder
from interact_jax.models.shapes import shape
from interact_jax.optim import make_optimiser
from interact_jax.schema import Batch, Branches, Replies, Sum, TokenStream

WIDTH, SMALL, LARGE = 512, 8_192, 151_936
SDPO = method_of(default())


def row(T):
    """The shape of one row like those of long dialogues: most tokens are replies."""

    def integers(n):
        return jax.ShapeDtypeStruct((1, n), jnp.int32)

    def stream(n):
        return TokenStream(*[integers(n)] * 4)

    Q, R = T * 7 // 8, T * 3 // 4
    weight = jax.ShapeDtypeStruct((1, R), jnp.float32)
    return Batch(
        trunk=stream(T),
        live=stream(0),
        frozen=stream(Q),
        branches=Branches(*[integers(T // 256 + 1)] * 3),
        replies=Replies(
            *[integers(R)] * 2,
            weight_BxR=weight,
            predictor={view: integers(R) for view in (PLAIN, HINDSIGHT)},
            known={},
            unit_BxI=integers(R),
            side_BxI=integers(R),
            share_BxI=weight,
        ),
        frozen_views=(HINDSIGHT,),
    )


@functools.cache
def temporary_bytes(vocabulary, tokens):
    config = shape("small", vocab_size=vocabulary)
    assert config.width == WIDTH and not config.tied
    decoder = Decoder(config, remat="full", attention="xla")
    return bytes_of(decoder, row(tokens), SDPO)


def bytes_of(decoder, batch, method):
    params = jax.eval_shape(decoder.fresh_params, 0)
    step = functools.partial(
        train.differentiate, decoder=decoder, forward=scoring.one_pass, method=method
    )
    models = dict.fromkeys(("policy", *method.rules), params)
    compiled = jax.jit(step).lower(models, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def of_8b(**settings):
    """Of Qwen3-8B's shape and rows of 4,096 tokens; parameters are no temporaries."""
    config = default()
    for name, value in settings.items():
        override(config, f"{name}={value}")
    decoder = Decoder(shape("qwen3-8b"), dtype=jnp.bfloat16, remat="full", attention="xla")
    return bytes_of(decoder, row(4_096), method_of(config))


@pytest.fixture(scope="module")
def sdpo_of_8b():
    return of_8b()


SLOW = pytest.mark.slow
OBJECTIVES = [
    pytest.param(
        {"objective.name": "jsd", "teacher.name": "trust_region", "objective.kl_initial": 0.1},
        marks=SLOW,
    ),
    pytest.param({"objective.name": "top_k"}, marks=SLOW),
    pytest.param({"objective.name": "reverse_kl"}, marks=SLOW),
    pytest.param({"objective.name": "forward_kl"}, marks=SLOW),
    pytest.param({"objective.name": "jsd"}, marks=SLOW),
    pytest.param({"objective.name": "top_k", "objective.k_by": "teacher"}, marks=SLOW),
    pytest.param({"teacher.name": "ema"}, marks=SLOW),
    pytest.param({"objective.ratio": "trainer"}, marks=SLOW),
]


@pytest.mark.parametrize("settings", OBJECTIVES, ids=lambda s: "-".join(map(str, s.values())))
def test_no_objective_needs_much_more_than_sdpo(settings, sdpo_of_8b):
    """A second model may have its head, in the dtype of the computation, beside the policy's."""
    config = shape("qwen3-8b")
    second = settings.get("teacher.name", "self") != "self" or "objective.ratio" in settings
    head = 2 * config.width * config.vocab_size * second
    assert of_8b(**settings) <= 1.15 * sdpo_of_8b + head


@pytest.mark.slow
def test_memory_grows_with_the_vocabulary_by_the_head_and_three_chunks():
    grown = temporary_bytes(LARGE, 2_048) - temporary_bytes(SMALL, 2_048)
    heads, chunks = WIDTH * 4, 3 * scoring.CHUNK * 4  # bytes a token of the vocabulary
    assert grown <= (heads + chunks) * (LARGE - SMALL)


@pytest.mark.slow
def test_memory_grows_with_the_row_no_faster_than_its_length():
    assert temporary_bytes(SMALL, 32_768) <= 16 * 1.15 * temporary_bytes(SMALL, 2_048)


def test_update_holds_one_state():
    """A step that may be skipped does not keep the old state beside the new one."""
    config = default()
    decoder = Decoder(shape("small"))
    optimiser = make_optimiser(config.optim)
    params = jax.eval_shape(decoder.fresh_params, 0)
    state = jax.eval_shape(lambda p: run_state.new_state(p, optimiser, {}), params)
    number, integer = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.int32))
    metrics = {name: Sum(number, number) for name in ("loss", *SDPO.metrics)}
    counted = dict.fromkeys(("interactions", "reply_tokens"), integer)
    move = functools.partial(
        train.update,
        optimiser=optimiser,
        lr=lambda step: 1e-6,
        clip_norm=config.optim.clip_norm,
        rules={},
    )
    compiled = jax.jit(move, donate_argnums=0).lower(state, (params, metrics, counted)).compile()
    largest = max(leaf.size * 4 for leaf in jax.tree.leaves(params))
    assert compiled.memory_analysis().temp_size_in_bytes < largest
