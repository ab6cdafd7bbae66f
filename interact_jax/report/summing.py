"""Statistics for the pages: means with standard errors, and logs reduced to visible points."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_POINTS = 1000  # of a curve; more steps than that are averaged in groups


@dataclasses.dataclass(frozen=True)
class Points:
    """At every position, [R] each: the number of replies, their mean, and its standard error (NaN
    for a single reply)."""

    counts: np.ndarray
    means: np.ndarray
    errors: np.ndarray


def over_replies(values: Sequence[np.ndarray]) -> Points:
    """Statistics over the replies that reach each position, without numbers that are not finite."""
    grid = np.full((len(values), max(map(len, values))), np.nan)
    for row, reply in zip(grid, values, strict=True):
        row[: len(reply)] = np.where(np.isfinite(reply), reply, np.nan)
    counts = np.isfinite(grid).sum(axis=0)
    means = _ratio(np.nansum(grid, axis=0), counts)
    variance = _ratio(np.nansum((grid - means) ** 2, axis=0), counts - 1)
    return Points(counts, means, np.sqrt(_ratio(variance, counts)))


def token_mean(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The mean over all finite tokens, and its standard error.

    Tokens of one reply are not independent, replies are: the error is that of a ratio of two sums
    over replies, NaN for a single one.
    """
    finite = [reply[np.isfinite(reply)] for reply in values]
    counts, sums = (
        np.array([len(reply) for reply in finite]),
        np.array([reply.sum() for reply in finite]),
    )
    replies, tokens = int((counts > 0).sum()), int(counts.sum())
    if not tokens:
        return np.nan, np.nan
    mean = sums.sum() / tokens
    if replies < 2:
        return float(mean), np.nan
    spread = replies / (replies - 1) * ((sums - mean * counts) ** 2).sum()
    return float(mean), float(np.sqrt(spread) / tokens)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(
        numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0
    )


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric in at most MOST_POINTS points, each the mean of `joined` steps, at the last of them.
    `skipped` are the points that include a step whose loss or gradient was not finite."""

    steps: list[int]
    means: list[float]
    skipped: list[int]
    joined: int


def group_steps(lines: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """Average a metric of a log in groups of steps."""
    joined = -(-len(lines) // MOST_POINTS)
    groups = [lines[i : i + joined] for i in range(0, len(lines), joined or 1)]
    means = []
    for group in groups:
        values = [line[name] for line in group if line[name] is not None]
        means.append(sum(values) / len(values) if values else np.nan)
    steps = [group[-1]["step"] for group in groups]
    skipped = [
        step for step, group in zip(steps, groups, strict=True) if any(map(was_skipped, group))
    ]
    return Curve(steps, means, skipped, joined)


def was_skipped(line: Mapping[str, Any]) -> bool:
    return line["loss"] is None or line["grad_norm"] is None
