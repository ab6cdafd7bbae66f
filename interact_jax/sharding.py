"""The mesh, and the mapping of the alphabet's letters to its axes.

A parameter's name ends in its shape (`q_DxHxK`), so the name says how it is sharded. Axes are of
type Auto: the compiler places the collectives, the rules below say how arrays are sharded.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from interact_jax.device_order import arranged, count_slices
from interact_jax.schema import InputError
from interact_jax.settings import Setting

log = logging.getLogger(__name__)

AXES = ("slice", "data", "fsdp", "tensor", "sequence")
MOST_VIRTUAL = 64  # devices of a CPU that a message proposes
ROWS = ("slice", "data", "fsdp")  # every device of these three axes has rows of its own

LETTERS: dict[str, str | tuple[str, ...]] = {
    "B": ROWS,
    "D": "fsdp",
    "V": "tensor",
    "H": "tensor",
    "G": "tensor",
    "F": "tensor",
    "L": "sequence",
}
"""Letter -> mesh axes; the dimensions of other letters are not sharded. L, the tokens of a row, is
one of activations alone."""

SETTINGS = {
    "mesh.slices": Setting(
        1,
        "slices of devices, or machines, with a slower network between them, which share only rows",
        free=True,
    ),
    "mesh.data": Setting(
        -1,
        "devices of a slice along the data axis; -1, for one of the four axes, = as many as are "
        "left",
        free=True,
    ),
    "mesh.fsdp": Setting(
        1, "devices along the fsdp axis, which share parameters and rows", free=True
    ),
    "mesh.tensor": Setting(1, "devices along the tensor axis, which share every matrix", free=True),
    "mesh.sequence": Setting(
        1, "devices along the sequence axis, which share the tokens of a row", free=True
    ),
}
Sizes = Mapping[str, int]  # by axis


def make_mesh(
    slices: int = 1,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    sequence: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh over `devices`, by default all; one of the sizes but `slices` may be -1, which is then
    inferred. The devices of a slice differ in the other axes only.

    Raises InputError where the sizes do not multiply to the number of devices, or the devices are
    of other slices.
    """
    sizes = dict(zip(AXES, (slices, data, fsdp, tensor, sequence), strict=True))
    devices = jax.devices() if devices is None else devices
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or slices < 1 or any(size < 1 for size in sizes.values() if size != -1):
        raise InputError(
            f"{as_settings(sizes, ', ')}: expected positive sizes, and -1 for at most one of them, "
            "other than mesh.slices."
        )
    if free:
        if len(devices) % fixed:
            raise InputError(_does_not_divide(sizes, devices))
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        given = _above_one(sizes) or {"data": 1}
        raise InputError(
            f"{as_settings(sizes, ', ')}: the sizes must multiply to the number of devices, "
            f"{len(devices)}. Set one of them to -1 to take what is left; or, the nearest that do, "
            f"{as_settings(nearest(given, len(devices), whole=True))}."
        )
    types = (AxisType.Auto,) * len(AXES)
    return Mesh(arranged(list(sizes.values()), devices), AXES, axis_types=types)


def storage_mesh(width: int, mlp_width: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`, by default all, for a program that computes nothing with a model: of
    each layer a device has as small a share as the model's D (`width`) and F divide into."""
    devices = jax.devices() if devices is None else devices
    slices = count_slices(devices) if devices[0].platform == "tpu" else 1
    fsdp = math.gcd(len(devices) // slices, width)
    tensor = math.gcd(len(devices) // slices // fsdp, mlp_width)
    return make_mesh(slices, fsdp=fsdp, tensor=tensor, devices=devices)


def _does_not_divide(sizes: Sizes, devices: Sequence[jax.Device]) -> str:
    """What is wrong where one size is free and the others leave it no whole number."""
    fixed = _above_one(sizes)
    there = "device that is" if len(devices) == 1 else "devices that are"
    needed = math.prod(fixed.values())
    advice = f"Set {'it' if len(fixed) == 1 else 'them'} to 1"
    if len(devices) > 1:
        near = as_settings(nearest(fixed, len(devices)))
        advice += f", or to what divides {len(devices)}; the nearest that does is {near}"
    advice += "."
    if devices[0].platform == "cpu" and needed <= MOST_VIRTUAL:
        flag = f"XLA_FLAGS=--xla_force_host_platform_device_count={needed}"
        advice += f" With {flag} in its environment, the program sees the CPU as {needed} devices."
    return f"{as_settings(fixed)} does not divide the {len(devices)} {there} there. {advice}"


def nearest(sizes: Sizes, count: int, whole: bool = False) -> dict[str, int]:
    """The sizes of the same axes, closest to these by their ratios, whose product divides `count`,
    or is `count` where the `whole` of it is wanted."""

    def distance(others: tuple[int, ...]) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(others, sizes.values(), strict=True))

    divisors = [n for n in range(1, count + 1) if count % n == 0]
    products = itertools.product(divisors, repeat=len(sizes))
    fit = (x for x in products if (math.prod(x) == count if whole else count % math.prod(x) == 0))
    closest = min(fit, key=distance)
    return dict(zip(sizes, closest, strict=True))


def as_settings(sizes: Sizes, between: str = " x ") -> str:
    """Sizes as a user gives them: "mesh.slices=2 x mesh.fsdp=4"."""
    names = {"slice": "slices"}
    return between.join(f"mesh.{names.get(axis, axis)}={size}" for axis, size in sizes.items())


def _above_one(sizes: Sizes) -> dict[str, int]:
    return {axis: size for axis, size in sizes.items() if size > 1}


def describe(mesh: Mesh) -> str:
    """A mesh as text: "8 x TPU v5e: data=2, fsdp=4"."""
    sizes = [f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1]
    devices = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
    return ": ".join([devices, ", ".join(sizes)]) if sizes else devices


def row_shards(mesh: Mesh) -> int:
    """The number of devices with rows of their own; it divides the number of rows of a batch."""
    return int(np.prod([mesh.shape[axis] for axis in ROWS]))


def letters_of(path: tuple[Any, ...]) -> str:
    """The letters of a parameter from its path in the tree: ("layers", "q_DxHxK") -> "NDHK"."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    _, _, shape = names[-1].rpartition("_")
    return ("N" if "layers" in names else "") + shape.replace("x", "")


def with_layout(shapes: Any, mesh: Mesh) -> Any:
    """The same tree of jax.ShapeDtypeStruct, each with its NamedSharding.

    Leaves named by the alphabet, including the optimiser's moments, follow LETTERS; the rest
    (step, counters) is replicated. A dimension that its axis does not divide is not sharded,
    which is logged.

    Raises InputError where an axis divides no dimension of a layer, and so shares nothing of it.
    """
    _check_useful(shapes, mesh)

    def shard(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        letters = letters_of(path)
        spec: list[str | tuple[str, ...] | None] = []
        if len(letters) == len(leaf.shape):
            for letter, size in zip(letters, leaf.shape, strict=True):
                axis = LETTERS.get(letter)
                if axis is not None and size % axis_size(mesh, axis):
                    name = jax.tree_util.keystr(path)
                    log.warning("not sharded: %s=%d of %s over %s", letter, size, name, axis)
                    axis = None
                spec.append(axis)
        layout = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)

    return jax.tree_util.tree_map_with_path(shard, shapes)


def _check_useful(shapes: Any, mesh: Mesh) -> None:
    """Raise InputError where an axis divides none of the dimensions of layers that it shares."""
    dimensions: dict[str, dict[str, int]] = {}  # axis -> letter -> size
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        letters = letters_of(path)
        if "N" in letters and len(letters) == len(leaf.shape):
            for letter, size in zip(letters, leaf.shape, strict=True):
                if isinstance(axis := LETTERS.get(letter), str):
                    dimensions.setdefault(axis, {})[letter] = size
    for axis, sizes in dimensions.items():
        given = mesh.shape[axis]
        if all(size % given for size in sizes.values()):
            near = nearest({axis: given}, math.gcd(mesh.size, *sizes.values()))
            listed = ", ".join(f"{letter}={size}" for letter, size in sizes.items())
            rows = " mesh.data shares rows alone." if axis in ROWS else ""
            raise InputError(
                f"{as_settings({axis: given})} divides nothing of a layer that it would share "
                f"({listed}), so each of its devices would have the whole layer. The nearest size "
                f"that divides all of it is {as_settings(near)}.{rows}"
            )


def layout_of(abstract: Any) -> Any:
    """The shardings of a tree that `with_layout` made."""
    return jax.tree.map(lambda x: x.sharding, abstract)


def axis_size(mesh: Mesh | AbstractMesh, axis: str | tuple[str, ...]) -> int:
    return int(np.prod([mesh.shape[a] for a in ((axis,) if isinstance(axis, str) else axis)]))


def replicated(mesh: Mesh) -> NamedSharding:
    """Replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shards_here(mesh: Mesh) -> tuple[int, ...]:
    """Which of the `row_shards` this process has devices of. Several processes have the same ones
    where the tensor or sequence axis goes across them."""
    has_N = (_processes_NxD(mesh) == jax.process_index()).any(axis=1)
    return tuple(np.flatnonzero(has_N).tolist())


def shards_told_here(mesh: Mesh) -> tuple[int, ...]:
    """Those of `shards_here` of which this process speaks where one has to: each shard is that of
    one process."""
    return tuple(np.flatnonzero(_processes_NxD(mesh)[:, 0] == jax.process_index()).tolist())


def _processes_NxD(mesh: Mesh) -> np.ndarray:
    """The process of each of the devices D of each of the `row_shards` N."""
    own = np.array([d.process_index for d in mesh.devices.flat])
    places = np.moveaxis(
        own.reshape(mesh.devices.shape),
        [mesh.axis_names.index(axis) for axis in ROWS],
        range(len(ROWS)),
    )
    return places.reshape(row_shards(mesh), -1)


def place_rows(batch: Any, mesh: Mesh, held: Sequence[int] | None = None) -> Any:
    """Global arrays, sharded over ROWS, from rows (numpy, rows first): all of them, or one behind
    the other those of the shards `held`, which are at least `shards_here`."""
    rows = NamedSharding(mesh, PartitionSpec(ROWS))
    if jax.process_count() == 1:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), batch)
    count = row_shards(mesh)
    place_of = {shard: place for place, shard in enumerate(range(count) if held is None else held)}

    def place(x: np.ndarray) -> jax.Array:
        size = len(x) // len(place_of)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # jax asks only for parts
            start = place_of[index[0].indices(size * count)[0] // size] * size
            return x[start : start + size]

        shape = (size * count, *x.shape[1:])
        return jax.make_array_from_callback(shape, rows, part)

    return jax.tree.map(place, batch)


def to_host(arrays: Any) -> Any:
    """The arrays (numpy) of a tree, whole, in every process; all have to call it."""
    if all(x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(arrays)):
        return jax.device_get(arrays)
    return jax.device_get(replicate(arrays))


def replicate(arrays: Any) -> Any:
    """The arrays of a tree, which are over one mesh, whole on every device."""
    mesh = mesh_of(arrays)
    assert mesh is not None
    return _replicate(replicated(mesh), arrays)


@functools.partial(jax.jit, static_argnums=0)
def _replicate(layout: NamedSharding, arrays: Any) -> Any:
    return jax.lax.with_sharding_constraint(arrays, jax.tree.map(lambda _: layout, arrays))


def mesh_of(arrays: Any) -> Mesh | None:
    """The mesh over which the arrays of a tree are laid out, if they are over one."""
    layout = getattr(jax.tree.leaves(arrays)[0], "sharding", None)
    mesh = layout.mesh if isinstance(layout, NamedSharding) else None
    return mesh if isinstance(mesh, Mesh) else None


@contextlib.contextmanager
def on_no_mesh() -> Iterator[None]:
    """Trace and run as if no mesh were set, whatever the caller has set."""
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())), nn.logical_axis_rules(()):
        yield


@contextlib.contextmanager
def on(mesh: Mesh) -> Iterator[None]:
    """Trace and run under this mesh: the model's logical axes mean the mesh axes of LETTERS."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(LETTERS.items())):
        yield
