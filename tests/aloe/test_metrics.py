"""The benchmark's figures against numpy, on curves whose figures are known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from interact_jax.aloe import metrics

NAN = np.nan
DRAWS = 400
MADE = np.array([[2, 3, 3, 5], [1, 1, 4, 4], [3, 3, NAN, 3]])  # as in the module's docstring
CURVES = {
    "rising": np.array([1.0, 2, 3, 4, 5]),
    "falling": np.array([5.0, 4.5, 2, 2, 1]),
    "a wave": np.array([3.0, 1, 4, 1, 5, 2, 5, 3, 4, 3]),
    "two turns": np.array([2.0, 3.5]),
    "a step": np.array([1.0, 1, 1, 5, 5, 5]),
    "the first missing": np.array([NAN, 2, 4, 3, 5]),
    "the middle missing": np.array([1.0, NAN, NAN, 2, 5]),
}


def line_of(levels):
    """Slope, intercept and R2 by numpy alone."""
    turns = np.arange(1, len(levels) + 1)[~np.isnan(levels)]
    given = levels[~np.isnan(levels)]
    slope, intercept = np.polyfit(turns, given, 1)
    left = given - (slope * turns + intercept)
    return slope, intercept, 1 - (left**2).sum() / ((given - given.mean()) ** 2).sum()


def values(estimates):
    return [NAN if each is None else each["value"] for each in estimates]


@pytest.mark.parametrize("levels", CURVES.values(), ids=CURVES)
def test_a_line_is_that_of_numpy(levels):
    line = metrics.fit_line(levels)
    np.testing.assert_allclose([line.slope, line.intercept, line.r2], line_of(levels), atol=1e-12)


def test_lines_of_many_curves_are_those_of_each():
    same_length = [levels for levels in CURVES.values() if len(levels) == 5]
    several = metrics.fit_line(np.stack(same_length))
    for n, levels in enumerate(same_length):
        single = metrics.fit_line(levels)
        assert several.slope[n] == single.slope and several.r2[n] == single.r2


def test_a_flat_curve_has_a_slope_and_no_r2():
    line = metrics.fit_line(np.array([0.1 + 0.2, 0.3, 0.3, NAN]))  # the same but for rounding
    assert line.slope == 0 and np.isnan(line.r2)
    assert line.intercept == pytest.approx(0.3)


@pytest.mark.parametrize("levels", ([], [3.0], [NAN, NAN], [NAN, 2.0, NAN]))
def test_fewer_than_two_turns_make_no_line(levels):
    line = metrics.fit_line(np.array(levels, float))
    assert np.isnan([line.slope, line.intercept, line.r2]).all()


def test_the_figures_of_a_small_table():
    found = metrics.summarise(MADE, DRAWS)
    counts = ("conversations", "turns", "missing", "unscored", "constant")
    assert [found[name] for name in counts] == [3, 4, 1, 0, 1]
    np.testing.assert_allclose(values(found["al"]), np.nanmean(MADE, axis=0))
    assert found["al_mean"]["value"] == pytest.approx((2 + 7 / 3 + 3.5 + 4) / 4)
    slope, intercept, r2 = line_of(np.nanmean(MADE, axis=0))
    assert found["ir"]["value"] == pytest.approx(slope)
    assert found["intercept"]["value"] == pytest.approx(intercept)
    assert found["r2"]["value"] == pytest.approx(r2)
    normal = np.array([[0, 1 / 3, 1 / 3, 1], [0, 0, 1, 1]])  # without the constant one
    np.testing.assert_allclose(values(found["n_al"]), normal.mean(axis=0))
    slope, _, r2 = line_of(normal.mean(axis=0))
    assert found["n_ir"]["value"] == pytest.approx(slope)
    assert found["n_r2"]["value"] == pytest.approx(r2)
    assert found["n_r2"]["value"] != pytest.approx(found["r2"]["value"])
    assert found["undefined"] == {}


def test_normalised_slopes_are_the_mean_of_those_of_conversations():
    scores = np.random.default_rng(1).integers(1, 6, (20, 10)).astype(float)
    own = [np.polyfit(np.arange(10), row, 1)[0] / np.ptp(row) for row in scores]
    found = metrics.summarise(scores, DRAWS)
    assert found["constant"] == 0 and found["n_ir"]["value"] == pytest.approx(np.mean(own))


def test_missing_scores_are_left_out_where_they_are():
    """A conversation is stretched over what it has; one with a single score is constant."""
    scores = np.array([[NAN, 2, 4], [5, NAN, NAN], [NAN, NAN, NAN]])
    np.testing.assert_array_equal(metrics.normalise(scores)[0], [NAN, 0, 1])
    assert np.isnan(metrics.normalise(scores)[1:]).all()
    found = metrics.summarise(scores, DRAWS)
    assert (found["missing"], found["unscored"], found["constant"]) == (6, 1, 1)
    assert values(found["al"]) == [5, 2, 4]
    np.testing.assert_array_equal(values(found["n_al"]), [NAN, 0, 1])
    assert found["n_ir"]["value"] == pytest.approx(1)


def test_what_is_undefined_says_why():
    flat = metrics.summarise(np.full((4, 10), 3.0), DRAWS)
    assert flat["ir"] == {"value": 0, "error": 0, "low": 0, "high": 0}
    assert flat["r2"] is flat["n_ir"] is flat["n_r2"] is None and flat["constant"] == 4
    assert flat["undefined"] == {
        "r2": metrics.FLAT,
        "n_ir": metrics.NO_CHANGE,
        "n_r2": metrics.NO_CHANGE,
    }
    crossing = metrics.summarise(np.array([[1.0, 3], [3, 1]]), DRAWS)
    assert crossing["constant"] == 0 and crossing["n_ir"]["value"] == 0
    assert crossing["undefined"] == {"r2": metrics.FLAT, "n_r2": metrics.FLAT}
    for scores in (np.full((3, 4), NAN), np.array([[2.0], [3.0]])):
        found = metrics.summarise(scores, DRAWS)
        assert found["ir"] is found["r2"] is None
        assert found["undefined"]["ir"] == found["undefined"]["r2"] == metrics.NO_LINE


def test_intervals_are_those_of_resampled_conversations():
    """Against draws made one by one, and not by counts."""
    rng = np.random.default_rng(0)
    scores = rng.integers(1, 6, (30, 10)) + np.linspace(0, 1, 10)
    scores[rng.random(scores.shape) < 0.1] = NAN
    found = metrics.summarise(scores, 4000)
    drawn = [scores[rng.integers(0, 30, 30)] for _ in range(4000)]
    levels = np.array([np.nanmean(each, axis=0) for each in drawn])
    slopes = np.array([np.polyfit(np.arange(10), each, 1)[0] for each in levels])
    for each, draws in ((found["ir"], slopes), (found["al"][3], levels[:, 3])):
        low, high = np.quantile(draws, (0.025, 0.975))
        width = high - low
        assert each["low"] == pytest.approx(low, abs=0.1 * width)
        assert each["high"] == pytest.approx(high, abs=0.1 * width)
        assert each["error"] == pytest.approx(draws.std(), rel=0.1)


def test_one_conversation_has_no_uncertainty():
    found = metrics.summarise(np.array([[1.0, 2, 4]]), DRAWS)
    for name in ("ir", "r2", "n_ir", "n_r2"):
        each = found[name]
        assert each["error"] is None and each["low"] == each["value"] == each["high"]


def test_differences_are_paired():
    """Both models have the same hard and easy cases: their difference is surer than their
    levels."""
    rng = np.random.default_rng(0)
    baseline = rng.normal(3, 1, (50, 1)) + rng.normal(0, 0.1, (50, 10))
    scores = baseline + 0.2 * np.arange(10)
    found = metrics.compare(scores, baseline, DRAWS)
    assert found["al_first"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["al_last"]["value"] == pytest.approx(1.8)
    assert found["al_last"]["high"] - found["al_last"]["low"] < 1e-9
    assert found["ir"]["value"] == pytest.approx(0.2)
    assert found["ir"]["high"] - found["ir"]["low"] < 1e-9
    level = metrics.summarise(scores, DRAWS)["al"][-1]
    assert level["high"] - level["low"] > 0.3
    scores[:10, -1] = NAN  # cases that only one has at the last turn are not compared there
    baseline[:10, -1] = -100
    assert metrics.compare(scores, baseline, DRAWS)["al_last"]["value"] == pytest.approx(1.8)
    nothing = metrics.compare(np.full((2, 3), NAN), np.ones((2, 3)), DRAWS)
    assert nothing == {"al_first": None, "al_last": None, "ir": None}


def test_shares_count_what_is_there():
    right = np.array([[1, 0, NAN], [1, 1, 1], [NAN, NAN, NAN]])
    assert metrics.share(right, DRAWS)["value"] == pytest.approx(4 / 5)
    assert metrics.share(np.full((2, 2), NAN), DRAWS) is None
    apart = metrics.compare_shares(right, np.zeros((3, 3)), DRAWS)
    assert apart["value"] == pytest.approx(0.8) and apart["low"] <= 0.8 <= apart["high"]
    assert metrics.compare_shares(right, right, DRAWS)["high"] == 0
    assert metrics.compare_shares(right, np.full((3, 3), NAN), DRAWS) is None
