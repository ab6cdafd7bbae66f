"""The heat map of a page: a pixel per token, stretched by the browser, and ids that are links.

The ids are text beside the picture, since text within it would be illegible when it is squeezed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from interact_jax.report import html
from interact_jax.report.colour import DARK, LEVELS, LIGHT, Theme, level, shade
from interact_jax.signal import Scored

MOST_ROWS = 500
LOWEST, HIGHEST = 3, 16  # pixels of a row, at least and at most
HEIGHT = 640  # pixels in total, if possible
LINE = 14  # pixels that an id needs
WIDEST = 40  # pixels of a column
TICKS = 6  # on the axis, at most, to fit on a small screen
ENDED = LEVELS + 1  # used instead of a level


def heat_map(ordered: Sequence[Scored], on_page: int) -> str:
    """The signals of replies in this order; the ids of the first `on_page` link to them."""
    rows = ordered[:MOST_ROWS]
    longest = max(len(s.y) for s in rows)
    height = max(LOWEST, min(HIGHEST, HEIGHT // len(rows)))
    levels = _levels([s.signal for s in rows], longest)
    says = f"Heat map of the signal of {len(rows):,} replies of up to {longest:,} tokens."
    tall, letters = height * len(rows), _id_width(rows)
    wide = f"max-width:{WIDEST * longest}px;min-width:{longest}px"
    return (
        f'<figure class="map"><div class="scroll"><div class="ids" '
        f'style="height:{tall}px;width:min({letters}ch,28vw)">{_ids(rows, height, on_page)}</div>'
        f'<div class="cells" style="{wide}"><picture>'
        f'<source media="screen and (prefers-color-scheme: dark)" srcset="{_png(levels, DARK)}">'
        f'<img alt="{says}" style="height:{tall}px" src="{_png(levels, LIGHT)}"></picture>'
        f'<div class="axis">{_axis(longest)}</div></div></div>'
        f"<figcaption>{html.count_shown(len(rows), len(ordered), 'scored replies')} "
        "A row is a reply, strongest mean |signal| first, a column a position in it (token); grey "
        "where a reply has ended.</figcaption></figure>"
    )


def _ids(rows: Sequence[Scored], height: int, on_page: int) -> str:
    """As many ids as there is room for."""
    every = -(-LINE // height)
    spans = []
    for i in range(0, len(rows), every):
        at = f'style="top:{i * height + (height - LINE) // 2}px"'
        text = (
            f'title="{html.escape_attribute(rows[i].id)}">{i + 1} · {html.escape_text(rows[i].id)}'
        )
        if i < on_page:
            spans.append(f'<a {at} href="#reply-{i + 1}" {text}</a>')
        else:
            spans.append(f"<span {at} {text}</span>")
    return "".join(spans)


def _id_width(rows: Sequence[Scored]) -> int:
    """The width of the ids with their numbers, in characters."""
    return min(32, max(len(s.id) for s in rows) + len(f"{len(rows)} · "))


def _axis(longest: int) -> str:
    ticks = MaxNLocator(nbins=TICKS, integer=True).tick_values(0, longest - 1)
    return "".join(
        f'<span style="left:{100 * (tick + 0.5) / longest:.2f}%">{tick:.0f}</span>'
        for tick in ticks
        if 0 <= tick < longest
    )


def _levels(signals: Sequence[np.ndarray], longest: int) -> np.ndarray:
    grid = np.full((len(signals), longest), ENDED)
    for row, signal in zip(grid, signals, strict=True):
        row[: len(signal)] = [level(float(s)) if np.isfinite(s) else ENDED for s in signal]
    return grid


def _png(levels: np.ndarray, theme: Theme) -> str:
    """A pixel per token; transparent where a reply has ended."""
    steps = range(-LEVELS, LEVELS + 1)
    palette = np.array([[*bytes.fromhex(shade(s, theme)[1:]), 255] for s in steps] + [[0] * 4])
    buffer = io.BytesIO()
    imsave(buffer, palette.astype(np.uint8)[levels + LEVELS], format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
