"""A request to stop that only some processes have heard of, as all know it at the same step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Votes:
    """Counts, once a step, the processes that were asked to stop.

    Waiting for the count would hold up the step, so it is that of the step before: all processes
    learn of a request one step after the first of them has heard it.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._layout = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._count = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._before: jax.Array | None = None

    def cast(self, asked: bool) -> bool:
        """Say whether this process was asked to stop; returns whether all do. To be called by all
        processes, once a step."""
        if jax.process_count() == 1:
            return asked
        own = np.full(self._mesh.devices.size, asked, np.int32)
        votes_N = jax.make_array_from_callback(own.shape, self._layout, lambda index: own[index])
        before, self._before = self._before, self._count(votes_N)
        return before is not None and bool(before)
