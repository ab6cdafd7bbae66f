"""The colour scale of the signal: red where hindsight makes a token less likely, blue where more.

    strength(signal)     -1 to 1, antisymmetric
    level(signal)        the same in whole steps: pages and pictures have a colour for each
    shade(level, theme)  its colour, "#rrggbb"

Equal |signal| has equal luminance, so neither sign looks stronger: both ends of a theme are equally
bright, and colours between are mixed in linear light, in which luminances add up. People with
red-green colour blindness can tell red and blue apart.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from matplotlib.colors import Colormap, ListedColormap, Normalize

LIMIT = 15.0  # nats, either way; larger signals have the colour of the end
KNEE = 0.1  # nats; below it the scale is linear, above it logarithmic, so small signals show
LEVELS = 20  # steps of colour per sign
TICKS = (-15, -3, -1, -0.3, 0, 0.3, 1, 3, 15)  # nats, for legends and axes

RGB = tuple[float, float, float]
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green, blue in linear light (sRGB, WCAG)


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a signal of 0 and of both ends; text on any has 4.5:1 contrast or more."""

    page: str
    red: str
    blue: str


LIGHT = Theme("#ffffff", "#f2625a", "#4391fa")
DARK = Theme("#14171c", "#c81e28", "#2862c8")
TERMINAL = Theme("#000000", DARK.red, DARK.blue)


def strength(signal: float) -> float:
    """-1 (-LIMIT or less) to 1 (LIMIT or more), 0 for no signal, increasing in between."""
    share = math.log1p(min(abs(signal), LIMIT) / KNEE) / math.log1p(LIMIT / KNEE)
    return math.copysign(share, signal) if signal else 0.0


def level(signal: float) -> int:
    """-LEVELS to LEVELS; 0 is practically no signal."""
    return round(strength(signal) * LEVELS)


def shade(step: int, theme: Theme) -> str:
    """The colour of a level; the lightness (L* of CIELAB) changes in equal steps."""
    page, end = linear(theme.page), linear(theme.blue if step > 0 else theme.red)
    if not step:
        return theme.page
    first, last = luminance(page), luminance(end)
    lightness = _lightness(first) + (_lightness(last) - _lightness(first)) * abs(step) / LEVELS
    mixed = (_luminance_of(lightness) - first) / (last - first)
    return _hex(tuple(p + (e - p) * mixed for p, e in zip(page, end, strict=True)))


def css_name(step: int) -> str:
    """The CSS class of a level: "n20" to "n1", "zero", "p1" to "p20"."""
    return f"{'p' if step > 0 else 'n'}{abs(step)}" if step else "zero"


def on_black(signal: float) -> str:
    """The colour on a black terminal, "#rrggbb"."""
    return shade(level(signal), TERMINAL)


class SignalScale(Normalize):
    """The same scale for matplotlib: -LIMIT -> 0, no signal -> 0.5, LIMIT -> 1."""

    def __init__(self) -> None:
        super().__init__(-LIMIT, LIMIT, clip=True)

    def __call__(self, value, clip=None):
        mask = np.ma.getmaskarray(np.ma.asarray(value))
        scaled = np.vectorize(strength, otypes=[float])(np.ma.filled(value, 0.0))
        return np.ma.array((1 + scaled) / 2, mask=mask)

    def inverse(self, value):
        s = 2 * np.asarray(value, float) - 1
        return np.sign(s) * KNEE * np.expm1(np.abs(s) * np.log1p(LIMIT / KNEE))


def colour_map() -> Colormap:
    """All levels from red to blue; grey where a reply has ended."""
    shades = [shade(step, LIGHT) for step in range(-LEVELS, LEVELS + 1)]
    return ListedColormap(shades, "signal").with_extremes(bad="#d9d9d9")


# ------------------------------------------------------------------------------------ arithmetic


def linear(colour: str) -> RGB:
    """Red, green and blue of "#rrggbb" in linear light, 0 to 1."""
    encoded = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in encoded
    )
    return red, green, blue


def luminance(colour: RGB) -> float:
    """Relative luminance, 0 for black to 1 for white."""
    return sum(weight * c for weight, c in zip(LUMINANCE, colour, strict=True))


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours as WCAG 2 defines it, 1 to 21."""
    low, high = sorted((luminance(linear(first)), luminance(linear(second))))
    return (high + 0.05) / (low + 0.05)


def _hex(colour: tuple[float, ...]) -> str:
    encoded = (c * 12.92 if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055 for c in colour)
    return "#" + "".join(f"{round(min(max(c, 0.0), 1.0) * 255):02x}" for c in encoded)


EDGE = 6 / 29  # where CIELAB's cube root becomes linear


def _lightness(y: float) -> float:
    return 116 * (math.cbrt(y) if y > EDGE**3 else y / (3 * EDGE**2) + 4 / 29) - 16


def _luminance_of(lightness: float) -> float:
    t = (lightness + 16) / 116
    return t**3 if t > EDGE else 3 * EDGE**2 * (t - 4 / 29)
