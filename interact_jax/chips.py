"""The capabilities of accelerators, from their vendors' data sheets."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak dense bfloat16 FLOP/s, memory in bytes and its bandwidth in bytes/s, per jax device.

    `link` is what a device can send along one axis of its interconnect, bytes/s: on a TPU two
    links, one in each direction of the ring; on a GPU NVLink. `network` is a device's share of what
    its host can send to other slices or machines: for v5e and v6e the pod's 6.4 and 25.6 Tbit/s
    over 256 chips (Google's pages of the chips), for v4 and v5p by "How to Scale Your Model"
    (jax-ml.github.io/scaling-book, part 2), for GPUs a network card of 200 or 400 Gbit/s each, as
    NVIDIA's DGX have. `usable` is the share of the memory
    that programs get, for TPUs according to libtpu's out-of-memory errors.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    network: float
    usable: float = 1.0


GIB = 2.0**30
CHIPS = {
    # jax's device_kind, in lower case
    "tpu v4": Chip("TPU v4", 275e12, 32 * GIB, 1.228e12, 90e9, 6.25e9, 0.961),
    "tpu v5 lite": Chip("TPU v5e", 197e12, 16 * GIB, 0.819e12, 90e9, 3.125e9, 0.9844),
    "tpu v5": Chip("TPU v5p", 459e12, 95 * GIB, 2.765e12, 180e9, 6.25e9, 1.0),
    "tpu v5p": Chip("TPU v5p", 459e12, 95 * GIB, 2.765e12, 180e9, 6.25e9, 1.0),
    "tpu v6 lite": Chip("TPU v6e", 918e12, 32 * GIB, 1.64e12, 180e9, 12.5e9, 0.976),
    "nvidia h100 80gb hbm3": Chip("H100 SXM", 989e12, 80e9, 3.35e12, 450e9, 50e9),
    "nvidia h200": Chip("H200 SXM", 989e12, 141e9, 4.8e12, 450e9, 50e9),
    "nvidia a100-sxm4-80gb": Chip("A100 SXM 80GB", 312e12, 80e9, 2.039e12, 300e9, 25e9),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip with jax's name `device_kind`; None where it is not known, as for any CPU."""
    return CHIPS.get(device_kind.lower())
