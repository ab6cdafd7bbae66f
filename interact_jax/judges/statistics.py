"""Shares over prompts, with their uncertainty.

Several replies to one prompt are not independent, so a prompt is a cluster: it is what standard
errors count and what the bootstrap draws.

    wins  judged                 share = 3 / 5
    2     2        prompt 1      draws of the bootstrap: (1, 1, 3), (2, 3, 3), (1, 2, 3) ...
    0     1        prompt 2
    1     2        prompt 3
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from interact_jax.settings import Setting

SETTINGS = {
    "bootstrap": Setting(5000, "resamples of the prompts for intervals", least=100, most=1_000_000),
}
INTERVAL = (0.025, 0.975)  # quantiles
CHUNK = 1 << 22  # counts of a chunk of resamples


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A share with its standard error (None for a single prompt) and 95 % interval (`low`,
    `high`)."""

    value: float
    error: float | None
    low: float
    high: float


def resample(columns: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums of the columns [prompts, columns] over `draws` samples of the prompts, as many as there
    are, with replacement: [draws, columns]."""
    prompts = len(columns)
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // prompts)
    chunks = [min(size, draws - start) for start in range(0, draws, size)]
    uniform = np.full(prompts, 1 / prompts)
    return np.concatenate([rng.multinomial(prompts, uniform, chunk) @ columns for chunk in chunks])


def estimate(
    totals: np.ndarray, counts: np.ndarray, sums: np.ndarray | None = None
) -> Estimate | None:
    """The share sum(totals) / sum(counts) over prompts; None where nothing was counted.

    `sums` [draws, 2] are the totals and counts of resamples, from which the interval is taken;
    those that counted nothing are left out. The standard error is that of a ratio by linearisation
    (Cochran, Sampling Techniques, 1977, section 6.3), over the n prompts that counted something:

        sqrt(n / (n - 1) sum_i (total_i - share count_i)^2) / sum_i count_i

    With one count per prompt that is the sample's standard deviation over sqrt(n).
    """
    count = float(counts.sum())
    if not count:
        return None
    share = float(totals.sum()) / count
    n = int((counts > 0).sum())
    error = None
    if n > 1:
        residuals = totals - share * counts
        error = math.sqrt(n / (n - 1) * float(residuals @ residuals)) / count
    low = high = share
    if sums is not None:
        counted = sums[:, 1] > 0
        low, high = map(float, np.quantile(sums[counted, 0] / sums[counted, 1], INTERVAL))
    return Estimate(share, error, low, high)
