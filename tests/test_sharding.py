"""The mesh and the layout of parameters, by the letters of their names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from interact_jax import sharding
from interact_jax.schema import InputError


def test_one_size_is_what_the_others_leave():
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    assert dict(mesh.shape) == {"slice": 1, "data": 1, "fsdp": 4, "tensor": 2, "sequence": 1}
    assert sharding.row_shards(mesh) == 4


@pytest.mark.parametrize(
    "sizes",
    [
        *({"data": 2}, {"data": -1, "fsdp": -1}, {"fsdp": 0}),
        {"data": 1, "fsdp": 2**32, "tensor": 2**32},  # beyond what numpy multiplies
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes):
    with pytest.raises(InputError, match=r"mesh\.data=.*mesh\.fsdp="):
        sharding.make_mesh(**sizes)


@pytest.mark.parametrize(
    ("sizes", "devices", "says"),
    [
        ({"fsdp": 4}, 1, "mesh.fsdp=4 does not divide the 1 device that is there. Set it to 1."),
        (
            {"fsdp": 3},
            8,
            "mesh.fsdp=3 does not divide the 8 devices that are there. Set it to 1, or",
        ),
        ({"fsdp": 2**32, "tensor": 2**32}, 8, "mesh.fsdp=4294967296 x mesh.tensor=4294967296 does"),
    ],
)
def test_sizes_that_leave_no_whole_number_are_named(sizes, devices, says):
    """And not the one that is free already."""
    with pytest.raises(InputError) as refused:
        sharding.make_mesh(**sizes, devices=jax.devices()[:devices])
    message = str(refused.value)
    assert message.startswith(says) and "-1" not in message
    needed = math.prod(sizes.values())
    advice = f"XLA_FLAGS=--xla_force_host_platform_device_count={needed} in"
    assert (advice in message) == (needed <= sharding.MOST_VIRTUAL)


def test_names_tell_the_layout():
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    tree = {
        "embedding_VxD": jnp.zeros((16, 8)),
        "layers": {"q_DxHxK": jnp.zeros((3, 8, 2, 4)), "attention_norm_D": jnp.zeros((3, 8))},
        "step": jnp.zeros(()),
    }
    layout = sharding.layout_of(sharding.with_layout(jax.eval_shape(lambda: tree), mesh))
    assert layout["embedding_VxD"].spec == PartitionSpec("tensor", "fsdp")
    assert layout["layers"]["q_DxHxK"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert layout["layers"]["attention_norm_D"].spec == PartitionSpec(None, "fsdp")
    assert layout["step"].spec == PartitionSpec()


def test_what_does_not_divide_stays_whole_and_is_logged(caplog):
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    shapes = {"embedding_VxD": jax.ShapeDtypeStruct((15, 8), jnp.float32)}
    layout = sharding.layout_of(sharding.with_layout(shapes, mesh))
    assert layout["embedding_VxD"].spec == PartitionSpec(None, "fsdp")
    assert "V=15" in caplog.text


def test_rows_are_shared_out():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    rows = sharding.place_rows(np.arange(8).reshape(4, 2), mesh)
    assert {shard.data.shape for shard in rows.addressable_shards} == {(1, 2)}
    np.testing.assert_array_equal(rows, np.arange(8).reshape(4, 2))
