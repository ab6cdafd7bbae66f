"""Every test runs on 8 virtual CPU devices, and no array is broadcast to a higher rank unasked."""

import os

# Before jax is imported: it reads both when it starts its backends.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that wants a download has to fail, not to wait

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
