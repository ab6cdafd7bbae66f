"""What some tests need of the machine they run on."""

import pytest

from interact_jax import foreign
from interact_jax.models.attention import BACKENDS

needs_compiler = pytest.mark.skipif(foreign.compiler() is None, reason="no C++ compiler here")
"""Operations of ours in C++ are compiled where they run; without a compiler there are none."""


def backends(*without: str) -> list[object]:
    """The names of attention's backends, as parameters."""
    return [
        pytest.param(name, marks=needs_compiler if name == "native" else ())
        for name in BACKENDS
        if name not in without
    ]
