"""The page of the signal: the figures that numpy gives, colours that favour no sign, all said."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.image import imread

from interact_jax import report
from interact_jax.data.chat import ChatFormat
from interact_jax.report import plots, signal_page, summing
from interact_jax.report.colour import (
    DARK,
    LEVELS,
    LIGHT,
    LIMIT,
    TERMINAL,
    SignalScale,
    contrast,
    level,
    on_black,
    shade,
    strength,
)
from interact_jax.report.signal_page import OPEN, figures
from interact_jax.schema import Interaction, Message
from tests.browser import CHROMIUM, Browser
from tests.pages import Page, replies, run_page, step
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("chatml"), "chatml"))


@pytest.fixture(scope="module")
def data(chat):
    return replies(chat, "<script>alert(1)</script> Paris", "a list 🙂\nof words")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_small_screen_has_room(chat, data, tmp_path):
    """400 pixels wide: nothing sticks out, and a number with its error is on one line."""
    page = report.write_signal_report(tmp_path, *data, chat, title="mine")
    browser = Browser(page, tmp_path / "profile", tmp_path)
    try:
        screen = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        browser.call("Emulation.setDeviceMetricsOverride", **screen)
        assert browser.value("document.documentElement.scrollWidth") == 400
        lines = browser.value(
            """[...document.querySelectorAll("table.values td")]
            .filter(cell => cell.textContent.includes("±"))
            .map(cell => {
                const range = document.createRange()
                range.selectNodeContents(cell)
                return range.getClientRects().length
            })"""
        )
        assert lines == [1, 1, 1]
    finally:
        browser.close()


def test_figures_are_those_of_numpy(data):
    tokens = np.concatenate([s.logp_teacher - s.logp_student for s in data[0]])
    found = figures([s.signal for s in data[0]])
    np.testing.assert_allclose(found["mean signal"][0], tokens.mean())
    np.testing.assert_allclose(found["mean |signal|"][0], np.abs(tokens).mean())
    share = found["share of tokens with |signal| > 0.5"][0]
    np.testing.assert_allclose(share, (np.abs(tokens) > 0.5).mean())


def test_standard_errors_are_over_interactions():
    """Of replies that each say one thing all along, there are as many facts as replies."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=50)
    _, error = summing.token_mean([np.full(40, mean) for mean in means])
    np.testing.assert_allclose(error, means.std(ddof=1) / np.sqrt(50))
    draws = [
        summing.token_mean([rng.normal(rng.normal(), 1, size=rng.integers(1, 20)) for _ in means])
        for _ in range(400)
    ]
    spread, told = np.std([mean for mean, _ in draws]), np.mean([error for _, error in draws])
    assert 0.85 < told / spread < 1.15
    assert np.isnan(summing.token_mean([np.ones(5)])[1])


def test_means_by_position_are_over_the_replies_that_are_so_long():
    points = summing.over_replies([np.array([1.0, 2, 5]), np.array([3.0, np.nan]), np.array([8.0])])
    assert points.counts.tolist() == [3, 1, 1]
    np.testing.assert_allclose(points.means, [4, 2, 5])
    expected = np.std([1, 3, 8], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(points.errors, [expected, np.nan, np.nan])


def test_signals_that_are_not_finite_are_counted_and_left_out(chat, tmp_path):
    scored, interactions = replies(chat, "one two", "three four")
    scored[0].logp_teacher[:2] = np.nan, np.inf
    scored[1].logp_teacher[:] = -np.inf
    page = Page(report.write_signal_report(tmp_path, scored, interactions, chat, title="x"))
    assert re.search(rf"without a finite signal{2 + len(scored[1].y)},", page.outside)
    rest = scored[0].signal[2:]
    assert f"{rest.mean():.4f}".replace("-", "−") in page.outside
    assert "no finite signal" in page.outside


def test_no_replies_make_a_page(chat, tmp_path):
    page = Page(report.write_signal_report(tmp_path, [], {}, chat, title="x"))
    assert "0 of the 0 in the data" in page.outside


def test_equal_signals_have_equally_strong_colours():
    """Equal luminance for +x and -x in every theme, and so equal contrast to the page; it goes away
    from the page's with every step."""
    for theme in (LIGHT, DARK, TERMINAL):
        seen = [contrast(theme.page, shade(at, theme)) for at in range(LEVELS + 1)]
        for at in range(1, LEVELS + 1):
            red, blue = shade(-at, theme), shade(at, theme)
            assert contrast(red, blue) < 1.02
            assert red != blue
        assert all(more > less for less, more in itertools.pairwise(seen))
        assert seen[0] == 1 and seen[-1] > 3
    assert on_black(-2.0) == shade(level(-2.0), TERMINAL) != on_black(2.0)


def test_colours_are_told_apart_without_red_and_green():
    """By their share of blue, which those see as others do who do not tell red from green."""
    for theme in (LIGHT, DARK):
        for at in range(LEVELS // 4, LEVELS + 1):
            red, blue = (int(shade(sign * at, theme)[5:], 16) for sign in (-1, 1))
            assert blue - red > 30 * at / LEVELS


def test_strength_is_the_same_both_ways_and_grows():
    signals = np.linspace(0, LIMIT + 1, 200)
    up = [strength(s) for s in signals]
    assert [-s for s in up] == [strength(-s) for s in signals]
    assert (np.diff(up) >= 0).all() and up[0] == 0 and up[-1] == strength(LIMIT) == 1
    scale = SignalScale()
    np.testing.assert_allclose(scale.inverse(scale([-4.0, 0.0, 0.7])), [-4, 0, 0.7], atol=1e-9)
    assert scale(-4.0) == pytest.approx(1 - scale(4.0))


def test_the_histogram_counts_every_token_and_labels_its_ends():
    signals = [np.array([-99.0, -15.1, -2, 0]), np.array([0.0, 14.99, 40, np.nan])]
    (axes,) = plots.histogram(signals).axes
    counts = [int(bar.get_height()) for bar in axes.patches]
    assert len(counts) == 2 * LEVELS + 1 and sum(counts) == 7
    assert counts[0] == 2 and counts[-1] == 2 and counts[LEVELS] == 2
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0] == "≤ −15" and labels[-1] == "≥ 15"


def test_tokens_tell_their_numbers_to_pointer_and_keyboard(chat, data, tmp_path):
    page = Page(report.write_signal_report(tmp_path, *data, chat, title="mine"))
    tokens = page.classed("t")
    expected = [
        (student, teacher)
        for s in sorted(data[0], key=lambda s: -np.abs(s.signal).mean())
        for student, teacher in zip(s.logp_student, s.logp_teacher, strict=True)
    ]
    assert len(tokens) == len(expected) and all(token["tabindex"] == "0" for token in tokens)
    for token, (student, teacher) in zip(tokens, expected, strict=True):
        numbers = f"student {student:.3f}  teacher {teacher:.3f}  signal {teacher - student:+.3f}"
        assert token["data-n"].endswith(numbers)
    assert "content: attr(data-n)" in page.source


def test_ids_in_the_heat_map_lead_to_their_replies(chat, tmp_path):
    many = replies(chat, *["a b"] * 30)
    page = Page(report.write_signal_report(tmp_path, *many, chat, title="mine"))
    targets = [a["href"][1:] for a in page.all("a")]
    assert len(targets) == 30 == len(set(targets))
    assert set(targets) <= {a["id"] for _, a in page.elements if "id" in a}
    (dark,), (light,) = page.all("source"), page.all("img")
    assert "dark" in dark["media"] and dark["srcset"] != light["src"]
    folded = [a for a in page.classed("pair") if "open" not in a]
    assert len(folded) == 30 - OPEN


def test_what_is_shown_of_how_many_is_said(chat, tmp_path, monkeypatch):
    many, interactions = replies(chat, *["a b c d"] * 30)
    more = interactions | {f"x{n}": interactions["c_0"] for n in range(4000)}
    every = report.write_signal_report(tmp_path, many, more, chat, title="mine")
    assert "30 of the 4,030 in the data" in Page(every).outside
    assert Page(every).outside.count("All 30 scored replies are shown.") == 2
    monkeypatch.setattr(signal_page, "MOST_TOKENS", 200)
    long = replies(chat, *["word " * 12] * 8)
    page = Page(report.write_signal_report(tmp_path, *long, chat, title="mine"))
    there = len(page.classed("pair"))
    assert 1 <= there < 8 and f"{there} of 8 scored replies are shown." in page.outside
    assert len(page.classed("t")) <= 200
    assert len(page.all("a")) <= there  # no link to what is not on the page


def test_long_texts_are_folded_and_whole(chat, tmp_path):
    scored, interactions = replies(chat, "tail " * 400 + "END")
    user = Message("user", "ask " * 1000 + "ENOUGH")
    interactions["c_0"] = Interaction("c_0", (user,), interactions["c_0"].y, Message("user", "o"))
    page = Page(report.write_signal_report(tmp_path, scored, interactions, chat, title="mine"))
    assert "END" in page.everything and "END" not in page.outside
    assert page.everything.count("tail") == 400 and page.everything.count("ask ") == 1000
    assert "ENOUGH" in page.everything and "ENOUGH" not in page.outside
    assert len(page.classed("t")) == len(scored[0].y)


def test_pictures_are_files_too(chat, data, tmp_path):
    report.write_signal_report(tmp_path, *data, chat, title="mine")
    run_page(tmp_path, [step(1), step(2)], {"correct": 0.1}, {"correct": 0.2})
    for name in ("heatmap", "by_position", "histogram"):
        assert imread(tmp_path / f"signal_{name}.png").std() > 0.01
    for name in ("before_after", "training"):
        assert imread(tmp_path / f"{name}.png").std() > 0.01


@pytest.mark.parametrize("rows", [32, pytest.param(500, marks=pytest.mark.slow)])
def test_heat_maps_have_a_line_of_pixels_for_every_reply(rows, chat, tmp_path):
    many, interactions = replies(chat, *["a"] * rows)
    page = Page(report.write_signal_report(tmp_path, many, interactions, chat, title="mine"))
    (image,) = page.all("img")
    height = int(re.search(r"height:(\d+)px", image["style"])[1])
    assert height % rows == 0 and height // rows >= 3
    ids = [int(re.search(r"top:(-?\d+)px", a["style"])[1]) for a in page.all("a")]
    assert min(np.diff(ids)) >= 14  # legible: a line of text each
    assert len(ids) >= (32 if rows == 32 else 100)
