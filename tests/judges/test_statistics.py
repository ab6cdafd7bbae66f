"""Shares, their standard errors and intervals, against plain computations."""

from __future__ import annotations

import numpy as np
import pytest

from interact_jax.judges import statistics
from interact_jax.judges.statistics import estimate, resample


def with_sums(totals, counts, draws=4000, seed=0):
    return estimate(totals, counts, resample(np.stack([totals, counts], 1), draws, seed))


def test_of_one_count_per_prompt_the_error_is_that_of_a_mean():
    x = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 300, p=[0.2, 0.3, 0.5])
    found = with_sums(x, np.ones(300))
    error = x.std(ddof=1) / np.sqrt(300)
    assert found.value == pytest.approx(x.mean())
    assert found.error == pytest.approx(error)
    # The bootstrap of a mean of 300 is close to normal.
    assert found.low == pytest.approx(x.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(x.mean() + 1.96 * error, abs=0.15 * error)


def test_the_error_counts_prompts_and_not_replies():
    """Copies of a reply add nothing: eight equal ones to each prompt leave error and interval."""
    x = np.random.default_rng(1).integers(0, 2, 200).astype(float)
    once, often = with_sums(x, np.ones(200)), with_sums(8 * x, np.full(200, 8.0))
    assert often.error == pytest.approx(once.error)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_the_error_of_a_ratio_over_unequal_prompts_by_a_plain_loop():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 6, 80).astype(float)
    totals = np.array([rng.integers(0, n + 1) for n in counts], float)
    found = estimate(totals, counts)
    share = totals.sum() / counts.sum()
    seen = [i for i in range(80) if counts[i]]
    squares = sum((totals[i] - share * counts[i]) ** 2 for i in seen)
    expected = (len(seen) / (len(seen) - 1) * squares) ** 0.5 / counts.sum()
    assert (found.value, found.error) == pytest.approx((share, expected))
    assert len(seen) < 80


def test_the_interval_is_that_of_resampled_prompts():
    """Against a bootstrap that draws indices one at a time; and its width is that of the error."""
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 5, 120).astype(float)
    totals = np.array([rng.integers(0, n + 1) for n in counts], float)
    found = with_sums(totals, counts)
    drawn = rng.integers(0, 120, (4000, 120))
    shares = totals[drawn].sum(1) / counts[drawn].sum(1)
    assert (found.low, found.high) == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.006)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(found.error, rel=0.08)


def test_a_resample_has_as_many_prompts_as_there_are(monkeypatch):
    columns = np.stack([np.ones(50), np.arange(50.0)], 1)
    sums = resample(columns, 300, seed=4)
    assert (sums[:, 0] == 50).all() and sums[:, 1].std() > 0
    assert np.array_equal(sums, resample(columns, 300, seed=4))
    assert not np.array_equal(sums, resample(columns, 300, seed=5))
    monkeypatch.setattr(statistics, "CHUNK", 50 * 7)
    assert np.array_equal(sums, resample(columns, 300, seed=4))


def test_shares_of_nothing_of_one_prompt_and_of_all():
    one, none = np.ones(1), np.zeros(1)
    assert estimate(none, none) is None
    assert with_sums(one, 2 * one) == statistics.Estimate(0.5, None, 0.5, 0.5)
    everything = with_sums(np.ones(20), np.ones(20))
    assert everything == statistics.Estimate(1.0, 0.0, 1.0, 1.0)


def test_resamples_that_count_nothing_are_left_out():
    """One of three prompts was decided: many resamples miss it."""
    found = with_sums(np.array([1.0, 0, 0]), np.array([1.0, 0, 0]))
    assert found == statistics.Estimate(1.0, None, 1.0, 1.0)
