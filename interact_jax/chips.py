"""What accelerators can do, from their makers' data sheets."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak dense bfloat16 FLOP/s, bytes of memory and its bytes/s, one device of jax each."""

    name: str
    flops: float
    memory: float
    bandwidth: float


GIB = 2.0**30
CHIPS = {
    # jax's device_kind, in small letters
    "tpu v4": Chip("TPU v4", 275e12, 32 * GIB, 1.228e12),
    "tpu v5 lite": Chip("TPU v5e", 197e12, 16 * GIB, 0.819e12),
    "tpu v5": Chip("TPU v5p", 459e12, 95 * GIB, 2.765e12),
    "tpu v5p": Chip("TPU v5p", 459e12, 95 * GIB, 2.765e12),
    "tpu v6 lite": Chip("TPU v6e", 918e12, 32 * GIB, 1.64e12),
    "nvidia h100 80gb hbm3": Chip("H100 SXM", 989e12, 80e9, 3.35e12),
    "nvidia h200": Chip("H200 SXM", 989e12, 141e9, 4.8e12),
    "nvidia a100-sxm4-80gb": Chip("A100 SXM 80GB", 312e12, 80e9, 2.039e12),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so; None where we do not know it, as for any CPU."""
    return CHIPS.get(device_kind.lower())
