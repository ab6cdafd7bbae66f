"""What some tests need of the machine they run on."""

import tempfile
from pathlib import Path

import pytest

from interact_jax import foreign
from interact_jax.models.attention import BACKENDS


def _why_no_compiler() -> str | None:
    """What an empty source meets, so that a fault of ours is not taken for a missing compiler."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", place)
        (source := Path(place) / "empty.cc").touch()
        try:
            foreign.load(source, ())
        except foreign.Unavailable as why:
            return str(why)


_WHY = _why_no_compiler()
needs_compiler = pytest.mark.skipif(_WHY is not None, reason=str(_WHY))
"""Operations of ours in C++ are compiled where they run; without a compiler there are none."""


def backends(*without: str) -> list[object]:
    """The names of attention's backends, as parameters."""
    return [
        pytest.param(name, marks=needs_compiler if name == "native" else ())
        for name in BACKENDS
        if name not in without
    ]
