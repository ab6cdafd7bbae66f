"""The pictures, as matplotlib figures without a global state; the caller saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from interact_jax.report.colour import HIGH, LOW, SignalScale, colour_map

MOST_ROWS = 200  # interactions in a heat map


def heat_map(signals: Sequence[np.ndarray]) -> Figure:
    """Interactions (the given order) by position in the reply, coloured by signal."""
    rows = signals[:MOST_ROWS]
    longest = max(len(s) for s in rows)
    grid = np.ma.masked_all((len(rows), longest))
    for i, signal in enumerate(rows):
        grid[i, : len(signal)] = signal
    figure = Figure(figsize=(10, min(8, 1.6 + 0.09 * len(rows))), layout="constrained")
    axes = figure.subplots()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    image = axes.imshow(
        grid, aspect="auto", interpolation="nearest", cmap=colour_map(), norm=SignalScale()
    )
    axes.set(xlabel="position in the reply (token)", ylabel="interaction", title="Signal")
    bar = figure.colorbar(image, ax=axes, ticks=[LOW, -3, -1, -0.3, 0, 0.3, 1, HIGH])
    bar.set_label("log π(yₜ | x, o) − log π(yₜ | x), nats")
    bar.ax.set_yticklabels(["−15", "−3", "−1", "−0.3", "0", "0.3", "1", "3"])
    return figure


def histogram(signals: Sequence[np.ndarray]) -> Figure:
    """How the tokens' signals are distributed; the count is logarithmic, for the tails."""
    values = np.clip(np.concatenate(signals), LOW, HIGH)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(values, bins=np.linspace(LOW, HIGH, 73).tolist(), color="#555577", log=True)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="signal (nats)", ylabel="tokens", title="Distribution of the signal")
    return figure


def by_position(signals: Sequence[np.ndarray]) -> Figure:
    """Mean signal and mean |signal| at every position, over the replies that are that long."""
    longest = max(len(s) for s in signals)
    grid = np.full((len(signals), longest), np.nan)
    for i, signal in enumerate(signals):
        grid[i, : len(signal)] = signal
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.nanmean(np.abs(grid), axis=0), label="mean |signal|", color="#aa5500")
    axes.plot(np.nanmean(grid, axis=0), label="mean signal", color="#224488")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="position in the reply (token)", ylabel="nats", title="Signal by position")
    axes.legend(frameon=False)
    return figure


def training(lines: Sequence[Mapping[str, Any]], shown: str) -> Figure:
    """Loss, a metric and the gradient norm over the steps; skipped steps are marked."""
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    steps = [line["step"] for line in lines]
    titles = {"signal_abs_mean": "mean |signal|", "grad_norm": "gradient norm"}
    for axes, name in zip(figure.subplots(1, 3), ("loss", shown, "grad_norm"), strict=True):
        values = [np.nan if line[name] is None else line[name] for line in lines]
        title = titles.get(name, name.replace("_", " "))
        axes.plot(steps, values, color="#224488", linewidth=1)
        for step, line in zip(steps, lines, strict=True):
            if line["loss"] is None or line["grad_norm"] is None:
                axes.axvline(step, color="#d6362e", linewidth=0.8)
        axes.set(xlabel="step", title=title)
    return figure


def before_after(before: Mapping[str, float], after: Mapping[str, float]) -> Figure:
    """Bars of every measured share, before and after training."""
    figure = Figure(figsize=(1.6 + 1.7 * len(after), 3.4), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(after))
    for shift, label, colour, values in (
        (-0.2, "before", "#b0b4c0", [before[name] for name in after]),
        (0.2, "after", "#2469d6", list(after.values())),
    ):
        bars = axes.bar(at + shift, [100 * v for v in values], 0.38, label=label, color=colour)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    axes.set_xticks(at, [name.replace("_", " ") for name in after])
    axes.set(ylabel="% of sampled replies", ylim=(0, 126))
    axes.legend(frameon=False, ncols=2, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
