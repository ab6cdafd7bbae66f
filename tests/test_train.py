"""What a step computes, whatever rows, micro-batches and devices it is divided over."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import bench, config, hlo, scoring, sharding, train
from interact_jax.methods import method_of
from interact_jax.models.decoder import Decoder
from interact_jax.models.shapes import shape
from interact_jax.schema import InputError
from tests.runs import (
    ONE_ROW_SHARD,
    PLAIN_SGD,
    begin,
    check_same,
    leaves,
    read_lines,
    small_settings,
)

pytestmark = pytest.mark.compiled_quickly


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_settings(tmp_path_factory.mktemp("small"))


ONE_STEP = {
    **PLAIN_SGD,
    "optim.lr": 0.1,
    "batch.interactions": 0,
    "batch.conversations": 6,
    "epochs": 0,
    "steps": 1,
}


@pytest.fixture(scope="module")
def one_batch(small, tmp_path_factory):
    """(metrics, parameters, micro-batches) of a step whose conversations are all in one batch."""
    return make_step(tmp_path_factory.mktemp("one") / "of/some", {**small, **ONE_STEP})


def make_step(workdir, settings):
    run = begin(workdir, settings)
    micro = len(run.source.next().micro)
    run.source.seek({**run.source.position(), "drawn": 0})
    train.loop(run)
    (line,) = read_lines(workdir / "metrics.jsonl")
    return line, leaves(run.state.params), micro


def test_a_run_that_could_not_be_exported_does_not_begin(small, tmp_path):
    (tmp_path / "export").write_text("mine")
    with pytest.raises(InputError, match=f"{tmp_path}/export: .*a file; expected a directory"):
        begin(tmp_path, small)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize(
    "shape, micro",
    [
        (ONE_ROW_SHARD, 3),
        ({"mesh.data": 2, "mesh.tensor": 4, "batch.row_tokens": 400}, 1),
        pytest.param(
            {**ONE_ROW_SHARD, "sharing": "none", "batch.rows": 2}, 3, marks=pytest.mark.slow
        ),
        ({"mesh.slices": 2, "mesh.data": 1, "mesh.fsdp": 2, "mesh.tensor": 2}, 1),
    ],
    ids=["row-by-row", "long-rows", "two-forwards", "two-slices"],
)
def test_step_is_that_of_one_batch(small, one_batch, shape, micro, tmp_path, caplog):
    """Packing, row length, micro-batches of unequal size and devices change nothing."""
    caplog.set_level("INFO", "interact_jax")
    line, params, found = make_step(tmp_path, {**small, **ONE_STEP, **shape})
    assert f"loading {small['model.path']}" in caplog.text
    expected_line, expected_params, one = one_batch
    assert (one, found) == (1, micro)
    for name in ("loss", "signal_mean", "signal_abs_mean", "grad_norm"):
        assert line[name] == pytest.approx(expected_line[name], rel=2e-5), name
    assert line["interactions"] == expected_line["interactions"] == 12
    check_same(params, expected_params, rtol=1e-5, atol=1e-6)


def test_sums_lie_where_the_parameters_do(small, tmp_path):
    """Numbers are on every device, and no gradient is on more of them than it has to be."""
    mesh = {"mesh.fsdp": 4, "mesh.tensor": 2, "batch.rows": 1}
    run = begin(tmp_path, {**small, **ONE_STEP, **mesh})
    (gradients, metrics, counted), _ = train.compute_sums(run, run.source.next())
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(run.state.params), strict=True)
    assert all(x.sharding.is_equivalent_to(param.sharding, x.ndim) for x, param in pairs)
    assert all(x.is_fully_replicated for x in jax.tree.leaves((metrics, counted)))


def test_between_slices_only_sums_of_gradients_go(small, tmp_path):
    """Those of a device's own share of the parameters, and of the whole embedding."""
    mesh = {"mesh.slices": 2, "mesh.data": 1, "mesh.fsdp": 4, "batch.rows": 1}
    run = begin(tmp_path, {**small, **ONE_STEP, **mesh})
    placed = sharding.place_rows(run.source.next().micro[0], run.model.mesh)
    models = run.state.all_params()
    with sharding.on(run.model.mesh):
        text = run.differentiate.lower(models, placed).compile().as_text()
    across = hlo.across_slices(text, 8, 2)
    share = 4 * sum(x.size for x in jax.tree.leaves(run.state.params)) / 4
    embedding = 2 * run.state.params["embedding_VxD"].nbytes
    assert across.keys() == {"all-reduce"}
    assert share <= across["all-reduce"].bytes <= 1.1 * (share + embedding)
    assert hlo.collectives(text, 8)["all-gather"].bytes > share  # over fsdp, within a slice


NARROW = {"num_hidden_layers": 1, "vocab_size": 8, "hidden_size": 64, "intermediate_size": 64}


def test_gradients_of_parameters_in_bfloat16_are_rounded_once():
    """A token that stands in 1,000 places, and a head over several chunks, gather more digits than
    bfloat16 has: 256 ones and one are 256 there."""
    dialogue = bench.Dialogue(turns=8, reply=150)
    row = bench.one_row(dialogue.trees("tree", np.random.default_rng(0), 5))
    assert row.replies.target_BxR.shape[1] > 2 * scoring.CHUNK
    found = {}
    params = None
    for dtype in (jnp.bfloat16, jnp.float32):
        decoder = Decoder(shape("small", **NARROW), param_dtype=dtype)
        params = decoder.fresh_params(0) if params is None else params
        differentiate = functools.partial(
            train.differentiate,
            decoder=decoder,
            forward=scoring.one_pass,
            method=method_of(config.default()),
        )
        params = jax.tree.map(lambda p, dtype=dtype: p.astype(dtype), params)
        found[dtype], *_ = jax.jit(differentiate)({"policy": params}, row)
    for name in ("embedding_VxD", "head_DxV"):
        exact = np.asarray(found[jnp.float32][name])
        np.testing.assert_allclose(found[jnp.bfloat16][name], exact, rtol=2**-8, atol=1e-6)
