"""The pictures, as matplotlib figures without global state; the caller saves them.

Panels are as wide as a small screen, so that a page can put them side by side or below one another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from interact_jax.printable import printable
from interact_jax.report import measures
from interact_jax.report.colour import (
    LEVELS,
    LIGHT,
    TICKS,
    SignalScale,
    colour_map,
    level,
    shade,
    strength,
)
from interact_jax.report.style import LIGHT_COLOURS as COLOURS
from interact_jax.report.summing import Points, group_steps, over_replies

P = ParamSpec("P")
PANEL, TALL = (4.8, 2.8), (4.4, 3.4)  # inches
NARROW = (3.7, 2.4)  # of which three fit beside one another
SIGNAL = "log π(yₜ | x, o) − log π(yₜ | x), nats"
LABELLED = 40  # the most rows of a heat map whose ids have room

LOOK: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["soft"],
    "axes.labelcolor": COLOURS["soft"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "text.color": COLOURS["ink"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.facecolor": "none",
    "legend.frameon": False,
    "text.parse_math": False,  # dollar signs in ids are literal
}


def with_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(LOOK):
            return draw(*args, **kwargs)

    return styled


@with_style
def heat_map(signals: Sequence[np.ndarray], ids: Sequence[str]) -> Figure:
    """Interactions (in the given order) by position in the reply, coloured by signal."""
    longest = max(len(s) for s in signals)
    grid = np.ma.masked_all((len(signals), longest))
    for i, signal in enumerate(signals):
        grid[i, : len(signal)] = np.ma.masked_invalid(signal)
    row = max(0.024, min(0.16, 5 / len(signals)))  # inches
    figure = Figure(figsize=(10, 1.6 + row * len(signals)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        grid, aspect="auto", interpolation="nearest", cmap=colour_map(), norm=SignalScale()
    )
    axes.set(xlabel="position in the reply (token)", title="Signal")
    if len(signals) <= LABELLED:
        axes.set_yticks(range(len(ids)), [_shorten(name) for name in ids], fontsize=8)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("interaction")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    bar = figure.colorbar(image, ax=axes, ticks=TICKS)
    bar.set_label(SIGNAL)
    bar.ax.set_yticklabels(map(_nats, TICKS))
    return figure


@with_style
def histogram(signals: Sequence[np.ndarray]) -> Figure:
    """The number of tokens of each colour, on a logarithmic scale that shows the tails."""
    tokens = np.concatenate(signals)
    levels = [level(float(signal)) for signal in tokens[np.isfinite(tokens)]]
    steps = np.arange(-LEVELS, LEVELS + 1)
    counts = np.bincount(np.asarray(levels, int) + LEVELS, minlength=len(steps))
    colours = [shade(int(step), LIGHT) if step else COLOURS["page"] for step in steps]
    figure = Figure(figsize=TALL, layout="constrained")
    axes = figure.subplots()
    axes.bar(steps, counts, 1, color=colours, edgecolor=COLOURS["soft"], linewidth=0.5)
    _log_counts(axes, int(np.max(counts, initial=1)))
    labels = [_nats(tick) for tick in TICKS]
    labels[0], labels[-1] = f"≤ {labels[0]}", f"≥ {labels[-1]}"
    axes.set_xticks([LEVELS * strength(tick) for tick in TICKS], labels)
    axes.set(xlabel="signal (nats), on the scale of the colours", title="Tokens by signal")
    return figure


@with_style
def by_position(signals: Sequence[np.ndarray]) -> Figure:
    """Mean signal and mean |signal| at every position over the replies that reach it, with a band
    of one standard error, and the number of these replies."""
    figure = Figure(figsize=TALL, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for label, colour, values in (
        ("mean |signal|", COLOURS["first"], [np.abs(signal) for signal in signals]),
        ("mean signal", COLOURS["second"], signals),
    ):
        points = over_replies(values)
        _band(above, points, label, colour)
    above.axhline(0, color=COLOURS["soft"], linewidth=0.8)
    above.set(ylabel="nats", title="Signal by position, ± 1 standard error")
    above.legend()
    counts = over_replies(signals).counts
    below.fill_between(np.arange(len(counts)), counts, step="mid", color=COLOURS["pale"])
    below.set(xlabel="position in the reply (token)", ylabel="replies", ylim=(0, None))
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_locator(
            MaxNLocator(integer=True, nbins=4 if axis is below.yaxis else "auto")
        )
    return figure


def _band(axes: Axes, points: Points, label: str, colour: str) -> None:
    at = np.arange(len(points.means))
    mark, width = "o" if len(at) == 1 else None, 1.4 if len(at) <= 100 else 0.8
    axes.plot(at, points.means, label=label, color=colour, marker=mark, linewidth=width)
    axes.fill_between(
        at,
        points.means - points.errors,
        points.means + points.errors,
        color=colour,
        alpha=0.25,
        linewidth=0,
    )


@with_style
def training(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Metrics over the steps, side by side; skipped steps are marked."""
    figure = Figure(figsize=(NARROW[0] * len(names), NARROW[1]), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        groups = group_steps(lines, name)
        mark = "o" if len(groups.steps) <= 20 else None
        axes.plot(
            groups.steps,
            groups.means,
            color=COLOURS["second"],
            marker=mark,
            markersize=3,
            linewidth=1.2,
        )
        for step in groups.skipped:
            axes.axvline(step, color=COLOURS["alarm"], linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set(xlabel="step", title=measures.metric_label(name))
        axes.ticklabel_format(axis="y", useOffset=False)
    return figure


@with_style
def before_after(before: Mapping[str, float], after: Mapping[str, float]) -> Figure:
    """Bars of every measured share, before and after training."""
    names = [name for name in after if measures.measure_of(name).share]
    figure = Figure(figsize=(PANEL[0], 0.9 + 0.75 * len(names)), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(names))
    for shift, label, colour, values in (
        (-0.19, "before", COLOURS["pale"], before),
        (0.19, "after", COLOURS["second"], after),
    ):
        numbers = [measures.finite(values, name) for name in names]
        labels = [
            measures.format_value(name, number) for name, number in zip(names, numbers, strict=True)
        ]
        widths = [100 * number if number is not None else 0 for number in numbers]
        bars = axes.barh(at + shift, widths, 0.36, label=label, color=colour)
        axes.bar_label(bars, labels, padding=3, fontsize=9)
    axes.set_yticks(at, [_bar_label(measures.measure_of(name)) for name in names])
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    axes.invert_yaxis()
    axes.set(xlabel="%", xlim=(0, 118), xticks=range(0, 101, 25))
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def _bar_label(measure: measures.Measure) -> str:
    return f"held out:\n{measure.label}" if measure.held_out else measure.label


def _shorten(name: str, most: int = 24) -> str:
    """An id, shortened to fit beside a picture."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _nats(number: float) -> str:
    return f"{number:g}".replace("-", "−")


def _log_counts(axes: Axes, most: int) -> None:
    axes.set_yscale("log")
    axes.set_ylim(0.5, most * 2)  # so that a single token is visible
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("tokens")
