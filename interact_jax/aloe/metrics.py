"""The benchmark's figures: how well replies fit their personas, and how fast that improves.

    scores = np.array([[2, 3, 3, 5], [1, 1, 4, 4], [3, 3, nan, 3]])     conversation, turn

    AL(k)   alignment level: mean score at turn k                       2, 2.33, 3.5, 4
    IR      improvement rate: slope b of the line b k + a through AL(k), by least squares
    R2      share of the variance of AL(k) that this line explains
    N-AL    the same of scores that every conversation has stretched to 0 .. 1
    N-IR, N-R2   of the line through N-AL(k)

A missing score is NaN: it is in no mean, and counted. AL(k), IR and R2 are those of arXiv
2410.03642, section 4, whose program prints AL(k) only; what it leaves open is decided here.

Normalisation, (score - min) / (max - min), is made within each conversation, over its own turns.
Of the curve AL(k) as a whole it would change no R2, since a line fits as well after any stretching.
N-AL(k) is then the mean over conversations, and N-IR and N-R2 are of the line through these means;
without missing scores, N-IR is also the mean of the slopes of the single conversations, because a
slope is linear in the scores. A conversation of equal scores has 0 / 0 for each turn: it is left
out of N-AL, N-IR and N-R2, and counted as `constant`.

The line is through the turns that have a score; fewer than two make no line. Where AL(k) does not
change, the slope is 0 and R2 is 0 / 0: undefined, neither 0 nor 1. The first two turns alone have
an R2 of 1, as any two points have.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from interact_jax.judges import statistics
from interact_jax.judges.statistics import INTERVAL, Estimate

ALIKE = 1e-9  # numbers that differ by no more are the same but for rounding
NO_LINE = "fewer than two turns have a score"
FLAT = "the same at every turn: there is no variance to explain"
NO_CHANGE = "no conversation has two different scores"


@dataclasses.dataclass(frozen=True)
class Line:
    """The least squares line `slope` k + `intercept` through levels at turns k = 1, 2, ...; arrays
    of the leading shape of the levels. NaN: undefined."""

    slope: np.ndarray
    intercept: np.ndarray
    r2: np.ndarray


def levels_of(scores: np.ndarray) -> np.ndarray:
    """AL(k): scores [conversations, turns] -> [turns]; NaN for a turn without a score."""
    given = ~np.isnan(scores)
    return _ratio(np.where(given, scores, 0.0).sum(axis=0), given.sum(axis=0))


def normalise(scores: np.ndarray) -> np.ndarray:
    """Scores [conversations, turns] stretched to 0 .. 1 within each conversation; NaN where they
    are missing, and throughout a conversation that has no two different ones."""
    least, most = _extremes(scores)
    spread = most - least
    spread = np.where(spread > ALIKE, spread, np.nan)
    return (scores - least[:, None]) / spread[:, None]


def fit_line(levels: np.ndarray) -> Line:
    """The line through levels [..., turns], those that are NaN left out."""
    given = np.isfinite(levels)
    count = given.sum(axis=-1)
    turns = np.broadcast_to(np.arange(1.0, levels.shape[-1] + 1), levels.shape)

    def centred(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = _ratio(np.where(given, values, 0.0).sum(axis=-1), count)
        return mean, np.where(given, values - mean[..., None], 0.0)

    mean_turn, x = centred(turns)
    mean_level, y = centred(levels)
    enough = count >= 2
    slope = np.where(enough, _ratio((x * y).sum(axis=-1), (x * x).sum(axis=-1)), np.nan)
    flat = np.abs(y).max(axis=-1, initial=0.0) <= ALIKE
    slope = np.where(flat & enough, 0.0, slope)
    left = (y - slope[..., None] * x) ** 2
    r2 = 1 - _ratio(left.sum(axis=-1), (y * y).sum(axis=-1))
    return Line(slope, mean_level - slope * mean_turn, np.where(flat | ~enough, np.nan, r2))


# ----------------------------------------------------------------------------------- of one model


def summarise(scores: np.ndarray, draws: int, seed: int = 0) -> dict[str, Any]:
    """All figures of scores [conversations, turns] as JSON; each is an `Estimate` or None.

    Intervals are of `draws` resamples of the conversations; a resample in which a figure is
    undefined is left out of its interval. Standard errors are those of `statistics.estimate` for
    AL(k) and N-AL(k), else the standard deviation over resamples. `undefined` says why there is no
    figure. Resampling adds noise to a curve, so the interval of R2 lies low, and may lie below it.
    """
    turns = scores.shape[1]
    normal = normalise(scores)
    sums = statistics.resample(np.hstack([_columns(scores), _columns(normal)]), draws, seed)
    raw, stretched = sums[:, : 2 * turns], sums[:, 2 * turns :]
    several = len(scores) > 1
    line, drawn = fit_line(levels_of(scores)), fit_line(_drawn(raw))
    n_line, n_drawn = fit_line(levels_of(normal)), fit_line(_drawn(stretched))
    least, most = _extremes(scores)
    unscored = np.isnan(least)
    mean_drawn = _mean(_drawn(raw))
    found = {
        "conversations": len(scores),
        "turns": turns,
        "missing": int(np.isnan(scores).sum()),
        "unscored": int(unscored.sum()),
        "constant": int((~unscored & (most - least <= ALIKE)).sum()),
        "al": _by_turn(scores, raw),
        "al_mean": _estimate(_mean(levels_of(scores)), mean_drawn, several),
        "ir": _estimate(line.slope, drawn.slope, several),
        "intercept": _estimate(line.intercept, drawn.intercept, several),
        "r2": _estimate(line.r2, drawn.r2, several),
        "n_al": _by_turn(normal, stretched),
        "n_ir": _estimate(n_line.slope, n_drawn.slope, several),
        "n_r2": _estimate(n_line.r2, n_drawn.r2, several),
    }
    return found | {"undefined": _reasons(scores, normal)}


def _reasons(scores: np.ndarray, normal: np.ndarray) -> dict[str, str]:
    """Why figures are undefined, by their names."""
    reasons: dict[str, str] = {}
    for slope, r2, of in (("ir", "r2", scores), ("n_ir", "n_r2", normal)):
        line = fit_line(levels_of(of))
        if np.isnan(line.slope):
            none = of is normal and np.isnan(normal).all() and not np.isnan(scores).all()
            reasons |= dict.fromkeys((slope, r2), NO_CHANGE if none else NO_LINE)
        elif np.isnan(line.r2):
            reasons[r2] = FLAT
    return reasons


def share(values: np.ndarray, draws: int, seed: int = 0) -> dict[str, Any] | None:
    """The mean of all values [conversations, turns] that are not NaN, as an `Estimate` in JSON,
    with conversations as clusters; None where there are no values. For shares of right replies."""
    columns = _totals(values)
    totals, counts = columns.T
    found = statistics.estimate(totals, counts, statistics.resample(columns, draws, seed))
    return None if found is None else dataclasses.asdict(found)


# ---------------------------------------------------------------------------------- of two models


def compare(
    scores: np.ndarray, baseline: np.ndarray, draws: int, seed: int = 0
) -> dict[str, dict[str, Any] | None]:
    """Differences, scores - baseline, of two models on the same cases [conversations, turns]:

    al_first, al_last   of AL at the first and the last turn, over the cases that both have there
    ir                  of the slopes, each over all that its model has

    A resample draws a case for both models (paired), so what cases have in common cancels out.
    """
    turns = scores.shape[1]
    both = np.hstack([_columns(scores), _columns(baseline)])
    sums = statistics.resample(both, draws, seed)
    slopes = [fit_line(_drawn(part)).slope for part in (sums[:, : 2 * turns], sums[:, 2 * turns :])]
    slope = fit_line(levels_of(scores)).slope - fit_line(levels_of(baseline)).slope
    apart = scores - baseline
    return {
        "al_first": share(apart[:, :1], draws, seed),
        "al_last": share(apart[:, -1:], draws, seed),
        "ir": _estimate(slope, slopes[0] - slopes[1], len(scores) > 1),
    }


def compare_shares(
    values: np.ndarray, baseline: np.ndarray, draws: int, seed: int = 0
) -> dict[str, Any] | None:
    """The difference of two `share`s of the same cases, paired; None where either is of nothing."""
    both = np.hstack([_totals(values), _totals(baseline)])
    sums = statistics.resample(both, draws, seed)

    def difference(of: np.ndarray) -> np.ndarray:
        return _ratio(of[..., 0], of[..., 1]) - _ratio(of[..., 2], of[..., 3])

    return _estimate(difference(both.sum(axis=0)), difference(sums), len(values) > 1)


# ------------------------------------------------------------------------------------- arithmetic


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where the count is 0."""
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count != 0)


def _mean(levels: np.ndarray) -> np.ndarray:
    """The mean over turns [..., turns] of those that are not NaN."""
    given = ~np.isnan(levels)
    return _ratio(np.where(given, levels, 0.0).sum(axis=-1), given.sum(axis=-1))


def _extremes(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest score of every conversation, NaN where it has none."""
    missing = np.isnan(scores)
    least = np.where(missing, np.inf, scores).min(axis=1, initial=np.inf)
    most = np.where(missing, -np.inf, scores).max(axis=1, initial=-np.inf)
    none = missing.all(axis=1)
    return np.where(none, np.nan, least), np.where(none, np.nan, most)


def _columns(scores: np.ndarray) -> np.ndarray:
    """[conversations, 2 x turns]: the scores with 0 for those missing, and whether they are
    there."""
    given = ~np.isnan(scores)
    return np.hstack([np.where(given, scores, 0.0), given.astype(float)])


def _totals(values: np.ndarray) -> np.ndarray:
    """[conversations, 2]: sum and number of the values that are there."""
    given = ~np.isnan(values)
    return np.stack([np.where(given, values, 0.0).sum(axis=1), given.sum(axis=1)], axis=1)


def _drawn(sums: np.ndarray) -> np.ndarray:
    """Sums over resamples [draws, 2 x turns] of `_columns` -> levels [draws, turns]."""
    totals, counts = np.hsplit(sums, 2)
    return _ratio(totals, counts)


def _by_turn(scores: np.ndarray, sums: np.ndarray) -> list[dict[str, Any] | None]:
    totals, counts = np.hsplit(_columns(scores), 2)
    turns = scores.shape[1]
    found = [
        statistics.estimate(totals[:, k], counts[:, k], sums[:, [k, turns + k]])
        for k in range(turns)
    ]
    return [None if each is None else dataclasses.asdict(each) for each in found]


def _estimate(value: np.ndarray, drawn: np.ndarray, several: bool) -> dict[str, Any] | None:
    """A figure with the interval of its resamples [draws]; None where it is undefined."""
    if np.isnan(value):
        return None
    defined = drawn[~np.isnan(drawn)]
    low, high = map(float, np.quantile(defined, INTERVAL)) if len(defined) else (value, value)
    error = float(defined.std()) if several and len(defined) else None
    return dataclasses.asdict(Estimate(float(value), error, float(low), float(high)))
