"""The GPU kernels are lowered to Triton on a machine without a GPU; a driver does the rest."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import bench, config, run_state, sharding, train
from interact_jax.methods import method_of
from interact_jax.models.attention import attend
from interact_jax.models.attention.sight import Span
from interact_jax.models.decoder import Decoder
from interact_jax.models.shapes import shape
from interact_jax.optim import make_optimiser

VERSION = jax.__version_info__
KERNELS = ("attention_forward", "attention_dq", "attention_dkv")


def a_gpu():
    """What jax takes for the GPU that it lowers for; before 0.11 it needs none."""
    if VERSION < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100", num_cores=None, platform="gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def lowered(function, *given):
    return function.trace(*given).lower(lowering_platforms=("cuda",)).as_text()


def both(q, k, v, sight, dout):
    out, transpose = jax.vjp(lambda q, k, v: attend(q, k, v, sight, "triton"), q, k, v)
    return out, transpose(dout)


@pytest.mark.parametrize("K", [8, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_kernels_are_lowered_for_gpus(dtype, K):
    """Rows that are no multiple of a block; no array has queries times keys."""
    L, S = 700, 1000
    q, k = (jax.ShapeDtypeStruct((2, n, heads, K), dtype) for n, heads in ((L, 14), (S, 2)))
    run = jax.ShapeDtypeStruct((2, L), jnp.int32)
    with a_gpu():
        text = lowered(jax.jit(both), q, k, k, (Span(run, run, run),) * 2, q)
    assert text.count("__gpu$xla.gpu.triton") == 3 and all(name in text for name in KERNELS)
    assert f"{L}x{S}x" not in text and f"{S}x{L}x" not in text


@pytest.mark.skipif(VERSION >= (0, 11), reason="this jax lowers for the devices of the mesh")
def test_a_training_step_is_lowered_for_gpus():
    """The trainer's own, of trees, with branches of students and of teachers."""
    decoder = Decoder(shape("small"), dtype=jnp.bfloat16, remat="full", attention="triton")
    cfg = config.default()
    optimiser, method = make_optimiser(cfg.optim), method_of(cfg)
    trees = bench.Dialogue(2, student_branches=True).trees("tree", np.random.default_rng(0), 8_192)
    with sharding.on(mesh := sharding.make_mesh(devices=jax.devices()[:1])):
        abstract = run_state.abstract_state(decoder, optimiser, mesh, method.rules)
        differentiate, _ = train.jit_gradients(cfg, decoder, abstract)
        row = sharding.place_rows(bench.one_row(trees), mesh)
        text = lowered(differentiate, abstract.all_params(), row)
    assert all(name in text for name in KERNELS)
