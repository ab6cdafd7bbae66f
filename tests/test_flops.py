"""The counter of FLOPs, and what the training step is counted to cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import bench, config, flops, sharding
from interact_jax.methods import method_of
from interact_jax.models.attention import BACKENDS, attend, blockwise, native
from interact_jax.models.attention.sight import trunk_sight
from interact_jax.models.decoder import Decoder
from interact_jax.models.shapes import shape
from interact_jax.schema import TokenStream
from tests.marks import needs_compiler

ONE = 2 * 3 * 8 * 8  # [3, 8] @ [8, 8]
X, W = jax.ShapeDtypeStruct((3, 8), jnp.float32), jnp.ones((5, 8, 8))


def test_bodies_of_scans_are_multiplied():
    def scanned(x):
        return jax.lax.scan(lambda h, m: (h @ m, None), x, W)[0]

    assert flops.count(scanned, X) == 5 * ONE


def looped(x, count):
    return jax.lax.fori_loop(0, count, lambda i, h: h @ W[0], x)


def nested(x, counts):
    """Each turn of the scan runs a loop of its own length, which an addition decides."""

    def body(h, n):
        return looped(h, n + 1), None

    return jax.lax.scan(body, x, counts)[0]


def test_loops_run_as_long_as_their_arguments_say():
    assert flops.count(looped, X, np.int32(7)) == 7 * ONE
    assert flops.count(nested, X, np.array([0, 3, 1], np.int32)) == (1 + 4 + 2) * ONE
    again = functools.partial(jax.checkpoint(nested), counts=jnp.array([2, 0], jnp.int32))
    assert flops.count(jax.jit(again), X) == (3 + 1) * ONE


def test_a_loop_whose_length_is_not_known_counts_once():
    assert flops.count(looped, X, jax.ShapeDtypeStruct((), jnp.int32)) == ONE


def asked_for(turns, sharing, objective="sdpo", teacher="self", **dialogue):
    """Settings, and what their method asks for: a row, how it is shared, and sources."""
    cfg = config.default()
    cfg.sharing, cfg.objective.name, cfg.teacher.name = sharing, objective, teacher
    method = method_of(cfg)
    dialogue["recipe"] = method.recipe
    dialogue = bench.Dialogue(turns, **dialogue)
    trees = dialogue.trees(sharing, np.random.default_rng(0), 8_192)
    return cfg, (bench.one_row(trees, known=method.known), sharing, method.sources)


def counted(turns, sharing, remat="full", attention="xla", **settings):
    decoder = Decoder(shape("small"), remat=remat, attention=attention)
    cfg, asked = asked_for(turns, sharing, **settings)
    return bench.gradient_flops(decoder, asked[0], cfg), asked


@pytest.mark.parametrize(
    "attention",
    [pytest.param("native", marks=needs_compiler), pytest.param("xla", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("student_branches, most", [(False, 0.26), (True, 0.43)])
def test_eight_turns_cost_a_fraction_of_two_passes(student_branches, most, attention):
    (tree, _), (none, _) = (
        counted(8, way, attention=attention, student_branches=student_branches)
        for way in ("tree", "none")
    )
    assert tree <= most * none


@pytest.mark.parametrize("sharing", ["tree", "none"])
@pytest.mark.parametrize("teacher", ["self", "ema"])
def test_what_is_computed_is_little_more_than_what_the_method_asks_for(teacher, sharing):
    """Blocks that reach beyond what is seen, and logits that the backward pass makes again, are all
    that is added where nothing is rematerialised."""
    computed, asked = counted(8, sharing, remat="none", teacher=teacher)
    useful = bench.useful_flops(shape("small"), *asked)
    assert useful < computed < 1.2 * useful


@pytest.mark.parametrize(
    "backend, queries, keys",
    [
        ("xla", 256, [512, 512, 1024, 1024, 1536, 1536, 2048, 2048]),
        # and two heads of each
        pytest.param("native", 64, range(64, 2049, 64), marks=needs_compiler),
        ("triton", 64, range(64, 2049, 64)),
    ],
)
def test_attention_is_counted_by_the_keys_that_blocks_visit(backend, queries, keys):
    index = np.arange(2_048, dtype=np.int32)[None]
    trunk = TokenStream(index, index, np.ones_like(index), np.zeros_like(index))
    q, k = (jax.ShapeDtypeStruct((1, 2_048, heads, 16), jnp.float32) for heads in (4, 2))

    def forward(q, k, trunk):
        return attend(q, k, k, trunk_sight(trunk), backend)

    assert (blockwise.BLOCK_Q, blockwise.BLOCK_K) == (256, 512)
    assert (native.BLOCK_Q, native.BLOCK_K) == (128, 96)
    assert flops.count(forward, q, k, trunk) == sum(keys) * queries * 2 * 2 * 4 * 16


def trunks(lengths):
    """Conversations of these lengths, one behind the other in a row."""
    position = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])[None]
    segment = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)[None]
    return TokenStream(position, position, segment, np.zeros_like(segment))


def test_a_device_of_a_sequence_has_a_quarter_of_attention():
    """Two products forward and five backward, as if every query saw all keys."""
    tokens = 1_024
    q, k = (jax.ShapeDtypeStruct((1, tokens, heads, 16), jnp.float32) for heads in (4, 2))

    def both(q, k, trunk):
        out, transpose = jax.vjp(lambda *a: attend(*a, trunk_sight(trunk), "dense"), q, k, k)
        return transpose(out)

    def on(count):
        mesh = sharding.make_mesh(data=1, sequence=count, devices=jax.devices()[:count])
        with sharding.on(mesh):
            return flops.count(both, q, k, trunks([tokens]))

    assert on(1) == 4 * on(4)
    assert on(1) == pytest.approx(7 * 2 * 4 * tokens * tokens * 16, rel=1e-3)


@pytest.mark.parametrize(
    "lengths, shares", [([8_192], [1, 3, 5, 7]), ([512] * 16, [4, 4, 4, 4])], ids=["one", "many"]
)
def test_the_last_device_of_a_sequence_sees_the_most(lengths, shares):
    """In sixteenths, of one conversation and of many: a device has neighbouring tokens."""
    row, parts = trunks(lengths), 4
    tokens = sum(lengths) // parts
    q, k = (jax.ShapeDtypeStruct((1, n, 2, 16), jnp.float32) for n in (tokens, sum(lengths)))

    def forward(sight):
        return flops.count(lambda q, k: BACKENDS["xla"].forward(q, k, k, sight), q, k)

    whole = trunk_sight(row)
    found = [
        forward(jax.tree.map(lambda x, i=i: np.asarray(x)[:, i * tokens : (i + 1) * tokens], whole))
        for i in range(parts)
    ]
    assert np.array(found) / sum(found) * 16 == pytest.approx(shares, abs=0.5)


def passes(*asked):
    return bench.token_passes(asked[0], True, *asked[1:])


def test_a_teacher_with_weights_of_its_own_passes_the_trunk_again():
    itself, average = (asked_for(4, "tree", teacher=name)[1] for name in ("self", "ema"))
    trunk = int((itself[0].trunk.segment_BxL > 0).sum())
    assert passes(*average) - passes(*itself) == trunk


@pytest.mark.parametrize("objective", ["dpo", pytest.param("sft", marks=pytest.mark.slow)])
def test_baselines_on_a_tree_cost_what_their_token_passes_say(objective):
    """A pair costs less than 0.75 of two full sequences at 4 turns."""
    (tree, together), (none, apart) = (
        counted(4, way, objective=objective) for way in ("tree", "none")
    )
    bound = passes(*together) / passes(*apart)
    assert bound < 0.75
    # The head over the replies costs both the same, and sharing saves attention beyond its tokens.
    assert tree / none < 0.75
    assert tree / none == pytest.approx(bound, abs=0.08)


@pytest.mark.parametrize("student_branches, most", [(False, 0.2), (True, 0.27)])
def test_ten_turns_with_a_pair_at_each_cost_a_third_of_the_pairs_alone(student_branches, most):
    """At the lengths of ALOE's conversations, in which replies have at most three sentences: 40
    tokens of the user and 72 of each reply."""
    lengths = {"user": 40, "reply": 72, "student_branches": student_branches}
    (tree, _), (none, _) = (
        counted(10, way, objective="dpo", **lengths) for way in ("tree", "none")
    )
    assert tree <= most * none
