"""Every backend of attention computes the dense formula, values and gradients, over any sight, and
those that cut rows into blocks leave out what nothing sees.

Compiled quickly: kernels in C++ are not XLA's, those for TPUs are emulated, and golden scores are
computed by optimised programs with each.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import sharding
from interact_jax.data.pack import pack
from interact_jax.data.shapes import full_row
from interact_jax.models.attention import (
    BACKENDS,
    attend,
    backend_for,
    blockwise,
    native,
    pallas_tpu,
    pallas_triton,
)
from interact_jax.models.attention.pairs import ALL, SOME, Pairs, kinds_of, visits_of
from interact_jax.models.attention.sight import (
    Span,
    branch_sight,
    concatenate_sights,
    mask_of,
    trunk_sight,
)
from interact_jax.schema import InputError
from tests.marks import backends, needs_compiler
from tests.trees import fill, grow, random_window

pytestmark = pytest.mark.compiled_quickly

BOUND = {jnp.float32: 2e-5, jnp.bfloat16: 2**-6}  # times the largest expected entry


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 16 queries and 8 keys, whatever the type."""
    for module in (blockwise, native, pallas_tpu):
        monkeypatch.setattr(module, "BLOCK_Q", 16)
        monkeypatch.setattr(module, "BLOCK_K", 8)
    monkeypatch.setattr(pallas_tpu, "BLOCK_Q", 32)  # float32 gets half
    monkeypatch.setattr(pallas_tpu, "BLOCK_K", 16)
    small = pallas_triton.Kernels(*[pallas_triton.Blocks(16, 8, warps=4, stages=2)] * 3)
    monkeypatch.setattr(pallas_triton, "BLOCKS", dict.fromkeys(pallas_triton.BLOCKS, small))


def packed_sight(window=None):
    """Two rows of several trees, padded: trunk and students' limbs over trunk and limbs, and one
    row of padding alone. Returns the sight and the number of keys."""
    rng = np.random.default_rng(3)
    windows = [random_window(rng, n, history_is="think", name=f"c{n}") for n in (1, 4, 2, 3, 1)]
    trees = [tree for window in windows for tree in grow(window)]
    capacity = full_row(trees, 80)
    rows = fill(trees, capacity)
    assert len(rows) == 2 and max(map(len, rows)) > 1
    batch, _ = pack(rows, capacity, 3)
    sight = concatenate_sights(
        [trunk_sight(batch.trunk), branch_sight(batch.live, batch.trunk, batch.branches)]
    )
    if window is not None:
        position = np.concatenate([batch.trunk.position_BxL, batch.live.position_BxL], axis=1)
        sight = tuple(span.within(jnp.int32(window), position) for span in sight)
    return sight, sight[0].first_BxL.shape[1]


def random_sight(B=2, L=53, S=61):
    """Two runs anywhere that do not meet; many are empty, or end where a block does."""
    rng = np.random.default_rng(5)
    first, end = rng.integers(0, 40, (2, B, L))
    second = np.maximum(rng.integers(16, S, (B, L)), end)
    first, second = (np.where(rng.random((B, L)) < 0.3, x // 16 * 16, x) for x in (first, second))
    last = np.minimum(second + rng.integers(-8, 30, (B, L)), S)
    zero = np.zeros((B, L), np.int32)
    return tuple(
        Span(jnp.asarray(a, jnp.int32), jnp.asarray(b, jnp.int32), zero)
        for a, b in ((first, end), (np.maximum(second, end), last))
    ), S


def causal_sight(B=2, L=53):
    index = jnp.broadcast_to(jnp.arange(L)[None], (B, L))
    return (Span(0 * index, index + 1, 0 * index),), L


def arrays(sight, S, r=2, G=2, K=8, dtype=jnp.float32):
    """q, k, v and the gradient that comes in."""
    B, L = sight[0].first_BxL.shape
    rng = np.random.default_rng(0)
    shapes = ((B, L, G * r, K), (B, S, G, K), (B, S, G, K), (B, L, G * r, K))
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def formula(mask_BxLxS, q, k, v):
    """One softmax over all that a query sees, in float32; 0 where that is nothing."""
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    mask = mask_BxLxS[:, None]
    logits = jnp.einsum("BLHK,BSHK->BHLS", q, k) * q.shape[-1] ** -0.5
    weights = jnp.where(mask, jnp.exp(logits), 0)  # of logits below 20 or so
    total = weights.sum(axis=-1, keepdims=True)
    return jnp.einsum("BHLS,BSHK->BLHK", weights / jnp.where(total == 0, 1, total), v)


@functools.partial(jax.jit, static_argnums=0)
def results(attention, q, k, v, dout):
    """Output, dq, dk, dv."""
    out, transpose = jax.vjp(attention, q, k, v)
    return out, *transpose(dout)


def through(backend, sight):
    return lambda q, k, v: attend(q, k, v, sight, backend)


CASES = {
    "packed": (packed_sight, 1, jnp.float32),
    "window": (functools.partial(packed_sight, window=9), 4, jnp.float32),
    "packed-bf16": (packed_sight, 2, jnp.bfloat16),
    "random": (random_sight, 2, jnp.float32),
    "random-bf16": (random_sight, 4, jnp.bfloat16),
    "causal": (causal_sight, 8, jnp.float32),
}
EMULATED = ("pallas", "triton")  # which takes long: quick tests compute a part of the cases
QUICK = ("packed", "window", "random-bf16")


def slow_if(condition, each):
    """A parameter, marked slow on this condition."""
    return pytest.param(*each.values, marks=[*each.marks, *[pytest.mark.slow] * condition])


@pytest.mark.parametrize(
    "backend, case",
    [
        slow_if(
            each.values[0] in EMULATED and case not in QUICK,
            pytest.param(*each.values, case, marks=each.marks),
        )
        for each in backends()
        for case in CASES
    ],
)
def test_values_and_gradients_are_those_of_the_formula(backend, case):
    sight, r, dtype = CASES[case]
    sight, S = sight()
    given = arrays(sight, S, r, dtype=dtype)
    mask = mask_of(sight, S)
    expected = results(functools.partial(formula, mask), *(x.astype(jnp.float32) for x in given))
    found = results(through(backend, sight), *given)
    for name, a, b in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        assert a.dtype == dtype
        bound = BOUND[dtype] * float(jnp.abs(b).max())
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=bound, rtol=0, err_msg=name)


@needs_compiler
@pytest.mark.parametrize("r, K", [(1, 40), (2, 64), (3, 80)])
@pytest.mark.parametrize("sight", [random_sight, causal_sight])
def test_the_kernel_in_blocks_of_the_size_it_runs_with(monkeypatch, sight, r, K):
    """Several vectors of queries, several of a head, and blocks that are cut short."""
    monkeypatch.setattr(native, "BLOCK_Q", 128)
    monkeypatch.setattr(native, "BLOCK_K", 96)
    sight, S = sight(L=237) if sight is causal_sight else sight(L=237, S=251)
    given = arrays(sight, S, r, K=K)
    expected = results(functools.partial(formula, mask_of(sight, S)), *given)
    found = results(through("native", sight), *given)
    for name, a, b in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        bound = BOUND[jnp.float32] * float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, atol=bound, rtol=0, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("K", [64, 80, 96, 112, 128, 192, 256])
def test_the_gpu_kernels_on_random_trees(K):
    """Thirty for each width, with their branches and a row of padding; in half, a narrow window."""
    rng = np.random.default_rng(K)
    grown = [
        grow(random_window(rng, rng.integers(1, 5), history_is=history_is, name=f"c{n}"))
        for n in range(10)
        for history_is in ("same", "think", "strip")
    ]
    capacity = full_row([tree for trees in grown for tree in trees], 80)
    run = functools.partial(through, "triton")
    of_sight = jax.jit(lambda sight, *given: results(run(sight), *given))
    for n, trees in enumerate(grown):
        batch, _ = pack(fill(trees, capacity)[:2], capacity, 3)
        sight = concatenate_sights(
            [trunk_sight(batch.trunk), branch_sight(batch.live, batch.trunk, batch.branches)]
        )
        position = np.concatenate([batch.trunk.position_BxL, batch.live.position_BxL], axis=1)
        window = jnp.int32(rng.integers(1, 12) if n % 2 else 1000)
        sight = tuple(span.within(window, position) for span in sight)
        S = position.shape[1]
        given = arrays(sight, S, 3, K=K)
        expected = results(functools.partial(formula, mask_of(sight, S)), *given)
        for name, a, b in zip(
            ("out", "dq", "dk", "dv"), of_sight(sight, *given), expected, strict=True
        ):
            bound = 1e-5 * max(1.0, float(jnp.abs(b).max()))
            np.testing.assert_allclose(a, b, atol=bound, rtol=0, err_msg=f"{n} {name}")


@pytest.mark.parametrize("backend", backends("xla", "pallas"))
def test_runs_that_reach_beyond_the_keys(backend):
    """C++ has to look after this itself; the keys beyond are none."""
    sight, S = random_sight()
    wide = tuple(
        span.replace(
            first_BxL=jnp.where(span.first_BxL == 0, -7, span.first_BxL),
            end_BxL=jnp.where(span.end_BxL == S, S + 9, span.end_BxL),
        )
        for span in sight
    )
    assert any((span.end_BxL > S).any() for span in wide)
    assert any((span.first_BxL < 0).any() for span in wide)
    given = arrays(sight, S)
    expected = results(through("dense", sight), *given)
    for a, b in zip(results(through(backend, wide), *given), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("handler", ["forward", "backward"])
def test_too_little_memory_is_an_error(monkeypatch, handler):
    """Blocks of logits that no address space holds."""
    monkeypatch.setattr(native, "BLOCK_Q", 2**20)
    monkeypatch.setattr(native, "BLOCK_K", 2**31 - 1)
    sight, S = causal_sight()
    q, k, v, dout = arrays(sight, S)
    lse = jnp.zeros((q.shape[0], q.shape[2], q.shape[1]))
    given = (q, k, v, sight) if handler == "forward" else (q, k, v, sight, q, lse, dout)

    def run():
        return jax.block_until_ready(jax.jit(lambda *x: getattr(native, handler)(*x))(*given))

    with pytest.raises(jax.errors.JaxRuntimeError, match="not enough memory"):
        run()
    monkeypatch.undo()
    run()  # and all goes on


@pytest.mark.parametrize("backend", backends())
def test_log_sum_exp_and_queries_that_see_nothing(backend):
    sight, S = random_sight()
    q, k, v, dout = arrays(sight, S)
    out, lse = jax.jit(BACKENDS[backend].forward)(q, k, v, sight)
    dq, *_ = jax.jit(BACKENDS[backend].backward)(q, k, v, sight, out, lse, dout)
    mask = mask_of(sight, S)
    logits = jnp.einsum("BLHK,BSHK->BHLS", q, jnp.repeat(k, 2, axis=2)) * q.shape[-1] ** -0.5
    expected = jax.nn.logsumexp(logits, axis=-1, where=mask[:, None])
    none_BxL = ~np.asarray(mask).any(axis=2)
    assert 0 < none_BxL.sum() < none_BxL.size / 2
    np.testing.assert_allclose(lse, np.where(none_BxL[:, None], np.inf, expected), atol=2e-5)
    assert not np.asarray(out)[none_BxL].any() and not np.asarray(dq)[none_BxL].any()


@pytest.mark.parametrize("backend", backends("dense"))
def test_blocks_of_keys_that_nobody_sees_are_not_touched(backend):
    """NaN in them reaches nothing, not even times a weight of 0. The first block behind the last
    key that is seen is let off: blocks of `xla` begin where a run does."""
    sight, S = random_sight(S=96)
    nobody = np.arange(96) >= 80
    sight = tuple(span.replace(end_BxL=jnp.minimum(span.end_BxL, 64)) for span in sight)
    q, k, v, dout = arrays(sight, S)
    poisoned = [jnp.where(nobody[None, :, None, None], jnp.nan, x) for x in (k, v)]
    clean = results(through(backend, sight), q, k, v, dout)
    for a, b in zip(results(through(backend, sight), q, *poisoned, dout), clean, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.asarray(clean[2])[:, nobody].any()


@pytest.mark.parametrize(
    "backend", [slow_if(each.values[0] in EMULATED, each) for each in backends("dense")]
)
def test_the_future_of_a_trunk_is_not_touched(backend):
    """NaN in the last block of keys reaches the last queries only."""
    sight, S = causal_sight(L=64)
    q, k, v, dout = arrays(sight, S)
    last = (np.arange(S) >= 48)[None, :, None, None]
    dout = jnp.where(last, 0, dout)
    clean = results(through(backend, sight), q, k, v, dout)
    k, v = (jnp.where(last, jnp.nan, x) for x in (k, v))
    for a, b in zip(results(through(backend, sight), q, k, v, dout)[:2], clean[:2], strict=True):
        np.testing.assert_array_equal(a[:, :48], b[:, :48])
        assert np.isnan(a[:, 48:]).all()


@pytest.mark.parametrize(
    "sight",
    [
        packed_sight,
        pytest.param(random_sight, marks=pytest.mark.slow),
        pytest.param(causal_sight, marks=pytest.mark.slow),
    ],
)
def test_pairs_of_blocks_are_listed_as_the_mask_has_them(sight):
    """Both ways round: each pair once per run, in order, with how much of it is seen."""
    sight, S = sight()
    q, k, *_ = arrays(sight, S)
    blocks = pallas_tpu._Blocks(q, k, sight)
    seen = np.asarray(blocks.seen(sight))
    masks = [np.asarray(mask_of((span,), blocks.m * blocks.k)) for span in sight]
    masks = np.stack(masks, axis=2)  # [B, L, spans, S]
    masks = np.pad(masks, ((0, 0), (0, blocks.n * blocks.q - blocks.L), (0, 0), (0, 0)))
    masks = masks.reshape(blocks.B, blocks.n, blocks.q, blocks.spans, blocks.m, blocks.k)
    kinds = masks.any(axis=(2, 5)).astype(int) + masks.all(axis=(2, 5))
    np.testing.assert_array_equal(seen, kinds)
    for table in (seen, seen.swapaxes(1, 3)):
        pairs = Pairs(jnp.asarray(table))
        steps = int(pairs.steps)
        listed = np.stack(pairs.fields(pairs.numbers[:steps]), axis=1)
        expected = [(*at, table[at]) for at in zip(*np.nonzero(table), strict=True)]
        nothing = np.argwhere(~table.any(axis=(2, 3)))
        expected += [(*at, 0, 0, 0) for at in nothing]
        np.testing.assert_array_equal(listed, sorted(expected))


@pytest.mark.parametrize("sight", [packed_sight, random_sight, causal_sight])
def test_the_lists_of_a_block_have_each_pair_once(sight):
    """Those seen wholly and those seen in part, as the mask of all runs has them."""
    sight, S = sight()
    mask = np.asarray(mask_of(sight, S))
    B, L, _ = mask.shape
    q, k = 16, 8
    kinds = np.asarray(kinds_of(sight, S, q, k))
    padded = np.pad(mask, ((0, 0), (0, -L % q), (0, -S % k)))
    padded = padded.reshape(B, -(-L // q), q, -(-S // k), k)
    np.testing.assert_array_equal(kinds, padded.any(axis=(2, 4)).astype(int) + padded.all((2, 4)))
    for table in (kinds, kinds.swapaxes(1, 2)):
        *_, W = table.shape
        for row, visits in zip(
            table.reshape(-1, W), np.asarray(visits_of(table)).reshape(-1, W + 2), strict=True
        ):
            whole, partly = visits[W:]
            np.testing.assert_array_equal(visits[:whole], np.flatnonzero(row == ALL))
            listed = visits[whole : whole + partly]
            np.testing.assert_array_equal(listed, np.flatnonzero(row == SOME))


@pytest.mark.parametrize(
    "backend", [slow_if(each.values == ("triton",), each) for each in backends()]
)
def test_a_mesh_changes_nothing(backend):
    """Rows and heads on devices of their own, whose lists of blocks differ in length."""
    sight, S = random_sight(B=2)
    given = arrays(sight, S)
    alone = results(through(backend, sight), *given)
    with sharding.on(sharding.make_mesh(data=2, tensor=2, sequence=2)):
        found = results(through(backend, sight), *given)
    for a, b in zip(found, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "backend, platform",
    [("pallas", "gpu"), ("native", "gpu"), ("native", "tpu"), ("triton", "tpu")],
)
def test_a_backend_that_the_devices_do_not_have_is_refused(backend, platform):
    device = SimpleNamespace(platform=platform)
    mesh = SimpleNamespace(devices=np.array([device]))
    with pytest.raises(InputError, match=rf"attention={backend} .*here are {platform} devices"):
        backend_for(backend, mesh)
    assert backend_for("auto", mesh) != backend


def test_a_gpu_has_its_kernels_if_it_is_of_nvidia_and_not_too_old(caplog):
    def meshes(*capabilities):
        for capability in capabilities:
            device = SimpleNamespace(platform="gpu", compute_capability=capability)
            yield SimpleNamespace(devices=np.array([device]))

    for mesh in meshes("8.0", "9.0", "12.0"):
        assert backend_for("auto", mesh) == backend_for("triton", mesh) == "triton"
    assert not caplog.records
    for mesh in meshes("7.5", "gfx942"):
        assert backend_for("auto", mesh) == "xla"
        with pytest.raises(InputError, match=r"attention=triton: .*8\.0 or more.*attention=auto"):
            backend_for("triton", mesh)
    assert "7.5" in caplog.text and "gfx942" in caplog.text


def test_heads_that_are_too_wide_for_the_kernels_are_refused():
    sight, S = causal_sight()
    q, k, v, _ = arrays(sight, S, K=264)
    with pytest.raises(InputError, match=r"heads of 264 numbers .*attention=xla"):
        attend(q, k, v, sight, "triton")
