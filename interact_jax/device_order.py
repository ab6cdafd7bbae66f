"""Which devices a mesh over several slices has where: a slice's own devices side by side.

A slice is what a faster network joins: a TPU slice (its interconnect), a machine of GPUs or a rack
of them (NVLink). Devices tell theirs by `slice_index`, where they have one.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from interact_jax.schema import InputError


def arranged(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices as an array of these sizes, whose first is the number of slices.

    Within a slice the order is that of `jax.make_mesh`. Where the number of slices is neither that
    of the devices' own slices nor that of processes, neighbours make a slice, such as virtual
    devices of one process, or the processes of a machine with one GPU each.

    Raises InputError for TPUs of another number of slices: without the interconnect between them,
    what the axes within a slice send would go over the network.
    """
    slices, *within = sizes
    own, processes = count_slices(devices), len({device.process_index for device in devices})
    if devices[0].platform == "tpu" and own != slices:
        of = "one slice" if own == 1 else f"{own} slices"
        raise InputError(f"mesh.slices={slices}: the TPUs are of {of}. Set mesh.slices={own}.")
    if slices > 1 and slices in (own, processes):
        return mesh_utils.create_hybrid_device_mesh(
            (1, *within),
            (slices, *[1] * len(within)),
            devices,
            process_is_granule=own != slices,
            # As jax.make_mesh does on v5e; elsewhere it helps only where nothing else does.
            allow_split_physical_axes=True,
        )
    if slices == own == 1:
        return jax.make_mesh(
            tuple(sizes), tuple(map(str, range(len(sizes)))), devices=devices
        ).devices
    # jax.make_mesh refuses what has slices of its own, as GPUs of several machines (jax#37863).
    return np.asarray(sorted(devices, key=lambda x: (_slice(x), x.id))).reshape(sizes)


def count_slices(devices: Sequence[jax.Device]) -> int:
    """The number of slices that the devices tell of; 1 where they tell nothing."""
    return len({_slice(device) for device in devices})


def _slice(device: jax.Device) -> int:
    return getattr(device, "slice_index", 0)
