"""One scale for the signal everywhere: red where hindsight would not say the token, blue where it
would say it more gladly."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize

LOW, HIGH = -15.0, 3.0  # nats; the colour range of the paper's heat maps
KNEE = 0.1  # nats; below it the scale is linear, above it logarithmic, so small signals show
RED, BLUE = (214, 54, 46), (36, 105, 214)


def strength(signal: float) -> float:
    """-1 (LOW or less) to 1 (HIGH or more), 0 for no signal, strictly growing between."""
    limit = HIGH if signal > 0 else -LOW
    share = math.log1p(min(abs(signal), limit) / KNEE) / math.log1p(limit / KNEE)
    return math.copysign(share, signal) if signal else 0.0


def css(signal: float) -> str:
    """A translucent colour: it lies over a light page and over a dark one."""
    s = strength(signal)
    r, g, b = BLUE if s > 0 else RED
    return f"rgba({r},{g},{b},{abs(s) * 0.85:.3f})"


def on_black(signal: float) -> str:
    """The colour over a black terminal, "#rrggbb"."""
    s = strength(signal)
    return "#" + "".join(f"{round(c * abs(s)):02x}" for c in (BLUE if s > 0 else RED))


class SignalScale(Normalize):
    """The same scale for matplotlib: LOW -> 0, no signal -> 0.5, HIGH -> 1."""

    def __init__(self) -> None:
        super().__init__(LOW, HIGH, clip=True)

    def __call__(self, value, clip=None):
        mask = np.ma.getmaskarray(np.ma.asarray(value))
        scaled = np.vectorize(strength, otypes=[float])(np.ma.filled(value, 0.0))
        return np.ma.array((1 + scaled) / 2, mask=mask)

    def inverse(self, value):
        s = 2 * np.asarray(value, float) - 1
        limit = np.where(s > 0, HIGH, -LOW)
        return np.sign(s) * KNEE * np.expm1(np.abs(s) * np.log1p(limit / KNEE))


def colour_map() -> Colormap:
    """Red, white, blue; grey where a reply has ended."""
    ends = [tuple(c / 255 for c in RED), (1, 1, 1), tuple(c / 255 for c in BLUE)]
    return LinearSegmentedColormap.from_list("signal", ends).with_extremes(bad="#d9d9d9")
