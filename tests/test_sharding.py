"""The mesh and the layout of parameters, by the letters of their names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from interact_jax import sharding
from interact_jax.device_order import arranged
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


@pytest.mark.parametrize(
    ("count", "D", "F", "expected"),
    [
        *((1, 32, 64, {}), (8, 32, 64, {"fsdp": 8}), (3, 32, 64, {"data": 3})),
        *((6, 32, 48, {"fsdp": 2, "tensor": 3}), (6, 32, 64, {"fsdp": 2, "data": 3})),
    ],
)
def test_a_mesh_for_storage_shares_what_it_can(count, D, F, expected):
    mesh = sharding.storage_mesh(D, F, jax.devices()[:count])
    assert {axis: size for axis, size in mesh.shape.items() if size > 1} == expected
    sharding.with_layout({"layers": {"up_DxF": jnp.zeros((2, D, F))}}, mesh)  # is not refused


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


def test_slices_share_rows_only():
    """The devices of a slice follow one another, and each slice has every parameter."""
    mesh = sharding.make_mesh(slices=2, data=2, fsdp=2)
    assert sharding.row_shards(mesh) == 8
    ids = [[device.id for device in each.flat] for each in mesh.devices]
    assert ids == [[0, 1, 2, 3], [4, 5, 6, 7]]
    rows = sharding.place_rows(np.arange(8).reshape(8, 1), mesh)
    assert sorted(int(shard.data[0, 0]) for shard in rows.addressable_shards) == list(range(8))
    shapes = {"layers": {"q_DxHxK": jax.ShapeDtypeStruct((3, 8, 2, 4), jnp.float32)}}
    layout = sharding.layout_of(sharding.with_layout(shapes, mesh))
    assert layout["layers"]["q_DxHxK"].spec == PartitionSpec(None, "fsdp", "tensor", None)


class Device:
    """What `arranged` looks at of a device."""

    def __init__(self, id, slice_index, process_index, platform="gpu"):
        self.id, self.slice_index, self.process_index = id, slice_index, process_index
        self.platform = self.device_kind = platform


def test_devices_of_one_slice_are_side_by_side():
    """Also where processes alternate between machines, and where two machines are to be one."""
    devices = [Device(n // 2 + 4 * (n % 2), n % 2, n) for n in range(8)]  # a process for each
    two = arranged((2, 1, 4, 1, 1), devices)
    assert [{device.slice_index for device in each.flat} for each in two] == [{0}, {1}]
    for sizes in ((1, 1, 8, 1, 1), (4, 1, 2, 1, 1)):
        found = arranged(sizes, devices)
        assert found.shape == sizes and [device.id for device in found.flat] == list(range(8))


@pytest.mark.parametrize(("slices", "own"), [(1, 2), (2, 1), (4, 2)])
def test_tpus_of_other_slices_are_refused(slices, own):
    devices = [Device(n, n * own // 8, 0, "tpu") for n in range(8)]
    with pytest.raises(InputError, match=rf"mesh\.slices={slices}: .* Set mesh\.slices={own}\."):
        arranged((slices, 1, 8 // slices, 1, 1), devices)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"fsdp": 3}, "the nearest that does is mesh.fsdp=4."),
        ({"slices": 2, "fsdp": 3}, "the nearest that does is mesh.slices=2 x mesh.fsdp=4."),
        ({"data": 2, "fsdp": 5}, "the nearest that do, mesh.data=2 x mesh.fsdp=4."),
        ({"data": 3}, "the nearest that do, mesh.data=8."),
        ({"data": 1}, "the nearest that do, mesh.data=8."),
    ],
)
def test_the_nearest_sizes_are_told(sizes, says):
    with pytest.raises(InputError) as refused:
        sharding.make_mesh(**sizes)
    assert says in str(refused.value)


def layers_of(D, H, G, F):
    shapes = {"q_DxHxK": (D, H, 4), "k_DxGxK": (D, G, 4), "up_DxF": (D, F)}
    return {
        "layers": {n: jax.ShapeDtypeStruct((2, *s), jnp.float32) for n, s in shapes.items()},
        "embedding_VxD": jax.ShapeDtypeStruct((16, D), jnp.float32),
    }


@pytest.mark.parametrize(
    ("mesh", "sizes", "says"),
    [
        ({"tensor": 4}, (8, 6, 2, 18), r"mesh\.tensor=4 .*\(G=2, H=6, F=18\).* mesh\.tensor=2\."),
        ({"fsdp": 8}, (12, 8, 8, 8), r"mesh\.fsdp=8 .*\(D=12\).* mesh\.fsdp=4\. mesh\.data "),
        ({"tensor": 8}, (8, 6, 3, 4), r"mesh\.tensor=8 .* mesh\.tensor=1\."),
    ],
)
def test_an_axis_that_shares_nothing_of_a_layer_is_refused(mesh, sizes, says):
    with pytest.raises(InputError, match=says):
        sharding.with_layout(layers_of(*sizes), sharding.make_mesh(**mesh))


def test_an_axis_that_shares_some_of_a_layer_is_not(caplog):
    sharding.with_layout(layers_of(8, 4, 2, 18), sharding.make_mesh(tensor=4))
    assert "G=2" in caplog.text and "F=18" in caplog.text and "H=4" not in caplog.text


def test_rows_are_shared_out():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    rows = sharding.place_rows(np.arange(8).reshape(4, 2), mesh)
    assert {shard.data.shape for shard in rows.addressable_shards} == {(1, 2)}
    np.testing.assert_array_equal(rows, np.arange(8).reshape(4, 2))
