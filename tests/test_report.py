"""The report: self-contained, escaped, with the figures that numpy gives."""

import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from interact_jax import config, report
from interact_jax.data.chat import ChatFormat
from interact_jax.objectives import OBJECTIVES
from interact_jax.report import html, plots, signal_page, summing
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
from interact_jax.report.losses import LOSSES
from interact_jax.report.signal_page import OPEN, figures
from interact_jax.report.style import DARK_COLOURS, LIGHT_COLOURS
from interact_jax.schema import Interaction, Message
from interact_jax.signal import Scored
from tests.tiny import tiny_tokenizer

EVIL = "<script>alert(1)</script><img src=x> & \u202eback\x1b[31m\0"
VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """What a reader finds: elements with their attributes, and the text outside of folds."""

    def __init__(self, file):
        super().__init__()
        self.elements, self.open, self.outside, self.everything = [], [], "", ""
        self.source = file.read_text()
        self.feed(self.source)
        assert not self.open  # every element was closed, in order

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if any(tag == "style" for tag, _ in self.open):
            return
        self.everything += text
        folded = any(tag == "details" and "open" not in a for tag, a in self.open)
        if not folded or any(tag == "summary" for tag, _ in self.open):
            self.outside += text

    def all(self, tag, **wanted):
        return [a for name, a in self.elements if name == tag and wanted.items() <= a.items()]

    def classed(self, name):
        return [a for _, a in self.elements if name in a.get("class", "").split()]


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("chatml"), "chatml"))


def replies(chat, *texts, seed=0):
    """Scored replies with signals of any sort, and their interactions."""
    rng = np.random.default_rng(seed)
    scored, interactions = [], {}
    for n, text in enumerate(texts):
        ids = np.asarray([*chat.encode(text), chat.eos_id])
        student, teacher = -rng.exponential(size=(2, len(ids)))
        scored.append(Scored(f"c_{n}", ids, student, teacher))
        user, o = Message("user", "hello"), Message("user", "<img src=x> & no")
        interactions[f"c_{n}"] = Interaction(f"c_{n}", (user,), Message("assistant", text), o)
    return scored, interactions


@pytest.fixture(scope="module")
def data(chat):
    return replies(chat, "<script>alert(1)</script> Paris", "a list 🙂\nof words")


def run_page(folder, lines=(), before=None, after=None, changed=None, **more):
    """The page of a run with these lines in its log."""
    folder.mkdir(exist_ok=True)
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = config.to_json(config.default()) | {"model.path": "M", "data.path": "D.jsonl"}
    settings |= {"batch.interactions": 32} | (changed or {})
    return report.write_run_report(
        folder,
        metrics_file=file,
        shown="signal_abs_mean",
        settings=settings,
        interactions=1234,
        before=before,
        after=after,
        **more,
    )


def step(number, loss=1.0):
    return {"step": number, "loss": loss, "signal_abs_mean": 0.1, "grad_norm": 2.0, "seconds": 30.0}


ROWS = [(EVIL, EVIL, "after", EVIL), ("p", "same", "same", ""), ("p", "word " * 900, "", "o")]


@pytest.fixture(scope="module")
def pages(chat, tmp_path_factory):
    """All pages of a report, with text of strangers in every place."""
    folder = tmp_path_factory.mktemp("report")
    scored, interactions = replies(chat, "Paris is it", f"so {EVIL}", "a list 🙂\nof words")
    scored[1] = Scored(EVIL, scored[1].y, scored[1].logp_student, scored[1].logp_teacher)
    user, o = Message("user", EVIL), Message("user", EVIL)
    interactions[EVIL] = Interaction(EVIL, (user,), Message("assistant", EVIL), o)
    signal = report.write_signal_report(
        folder, scored, interactions, chat, title=f"t {EVIL}", of_run=True
    )
    sampled = report.replies_page(folder, ROWS, 2048)
    index = run_page(
        folder,
        [step(1), step(2, None), step(3, -0.5)],
        {"wanted_styles": 0.4, f"m {EVIL}": 2.0},
        {"wanted_styles": 0.7, f"m {EVIL}": 3.0},
        {"model.path": EVIL, "data.path": EVIL, "hindsight": f"{{o}} {EVIL}"},
        notes=[EVIL],
    )
    return {page.name: Page(page) for page in (index, signal, sampled)}


NAMES = ["index.html", "signal.html", "replies.html"]


# -------------------------------------------------------------------------------- every page


@pytest.mark.parametrize("name", NAMES)
def test_a_page_loads_nothing_and_runs_nothing(pages, name):
    page = pages[name]
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "base"}
    for _, attributes in page.elements:
        assert not [a for a in attributes if a.startswith("on")]
        for where in ("src", "srcset", "href", "xlink:href"):
            target = attributes.get(where, "data:image/png;base64,")
            assert target.startswith(("data:image/png;base64,", "#")) or target in NAMES
    assert "http:" not in page.source and "https:" not in page.source
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"]


@pytest.mark.parametrize("name", NAMES)
def test_text_of_strangers_is_shown_and_misleads_nobody(pages, name):
    page = pages[name]
    assert "<script>alert(1)</script><img src=x> & " in page.everything
    for hidden in "\u202e\x1b\0":
        assert hidden not in page.source
    assert "\\u202e" in page.everything and "\\x1b" in page.everything
    assert page.classed("odd")  # told apart from somebody who has written \u202e


def test_joined_letters_and_line_ends_stay():
    assert html.shown("👨\u200d👩 می\u200cشود\r\nx") == "👨\u200d👩 می\u200cشود\nx"
    assert html.shown("\ud83d").encode() == b'<span class="odd">\\ud83d</span>'


@pytest.mark.parametrize("name", NAMES)
def test_headings_go_down_one_at_a_time(pages, name):
    levels = [int(tag[1]) for tag, _ in pages[name].elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and len(levels) > 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_say_what_they_show(pages, name):
    page = pages[name]
    told = [a.get("alt", "") for a in page.all("img")]
    told += [a.get("aria-label", "") for a in page.all("svg", role="img")]
    assert len(told) == {"index.html": 4, "signal.html": 3, "replies.html": 0}[name]
    assert len(page.all("svg")) == len(page.all("svg", role="img"))
    assert all(re.search(r"\d", text) and len(text) > 20 for text in told)


@pytest.mark.parametrize("name", NAMES)
def test_small_screens_and_dark_ones(pages, name):
    """Widths come from the screen; every colour of a picture is one that the dark scheme sets."""
    page = pages[name]
    (viewport,) = page.all("meta", name="viewport")
    assert "width=device-width" in viewport["content"]
    assert not [a for a in page.all("svg") if "width" in a]
    light, dark = (
        dict(re.findall(r"--(\w+):(#\w+)", sheet))
        for sheet in page.source.split("@media screen and (prefers-color-scheme: dark)")[:2]
    )
    assert light.keys() == dark.keys() and light["page"] != dark["page"]
    for picture in re.findall("<svg.*?</svg>", page.source, re.DOTALL):
        used = set(re.findall(r"var\(--(\w+)\)", picture))
        assert used and used <= dark.keys()
        assert not re.findall(r"(?:fill|stroke): ?#", picture)


def test_text_has_the_contrast_of_wcag():
    for colours in (LIGHT_COLOURS, DARK_COLOURS):
        for text in ("ink", "soft", "link", "alarm"):
            for under in ("page", "panel"):
                assert contrast(colours[text], colours[under]) >= 4.5, (text, under)
    for theme, ink in (
        (LIGHT, LIGHT_COLOURS["ink"]),
        (DARK, DARK_COLOURS["ink"]),
        (TERMINAL, "#ffffff"),
    ):
        for number in range(-LEVELS, LEVELS + 1):
            assert contrast(shade(number, theme), ink) >= 4.5, (theme, number)
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_pages_of_a_run_link_one_another(pages):
    linked = {
        name: {a["href"] for a in page.all("a") if not a["href"].startswith("#")}
        for name, page in pages.items()
    }
    assert linked == {
        "index.html": {"signal.html", "replies.html"},
        "signal.html": {"index.html"},
        "replies.html": {"index.html", "signal.html"},
    }


def test_nothing_is_linked_that_is_not_there(chat, data, tmp_path):
    assert not Page(run_page(tmp_path / "run")).all("a")
    assert not Page(report.replies_page(tmp_path / "x", ROWS, 3)).all("a", href="signal.html")
    scores = Page(report.write_signal_report(tmp_path, *data, chat, title="mine"))
    assert not scores.all("a", href="index.html")


# ------------------------------------------------------------------------------- the run's page


def test_a_run_begins_with_what_it_was(pages):
    page = pages["index.html"]
    beginning = page.outside[: page.outside.index("Before and after")]
    for told in ("sdpo", "teacher self", "3 steps, 1 min 30 s", "1,234 learned from"):
        assert told in beginning
    for name in config.settings():
        assert name in page.everything
    assert "optim.warmup_fraction" not in page.outside  # left as it is, so in the fold alone


def test_measures_have_names_and_units(pages):
    text = pages["index.html"].outside
    assert re.search(r"wanted styles\s*40.0%\s*70.0%\s*\+30.0 points", text)
    assert re.search(r"m <script>.*2\s*3\s*\+1", text)


def test_settings_that_were_set_are_seen_at_once(tmp_path):
    page = Page(run_page(tmp_path, changed={"seed": 7, "optim.lr": 0.25}))
    assert "seed=7" in page.outside and "learning rate 0.25" in page.outside
    assert "seed=" not in Page(run_page(tmp_path)).outside


def test_measures_that_are_missing_or_no_numbers(tmp_path):
    before, after = {"correct": 0.5, "gone": 1.0}, {"correct": float("nan"), "bleu": 12.5}
    text = Page(run_page(tmp_path, before=before, after=after)).outside
    assert re.search("correct answers50.0%––", text) and re.search("bleu–12.5–", text)
    lines = report.before_after_lines(before, after)
    assert lines[1].split() == ["correct", "50.0%", "–", "–"]
    assert lines[2].split() == ["bleu", "–", "12.5", "–"]


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_loss_is_explained(name, tmp_path):
    settings = {"objective.name": name, "objective.kl_initial": 0.25}
    text = Page(run_page(tmp_path, [step(1)], changed=settings)).outside
    assert LOSSES[name] in text and "0.25 times the KL divergence" in text
    assert ("no floor" in text) == (name == "sdpo")
    assert ("teacher self" in text) == (OBJECTIVES[name].recipes == ("hindsight",))


def test_a_run_without_steps_has_a_page(tmp_path):
    assert "No step has been done." in Page(run_page(tmp_path)).outside


def test_long_logs_are_joined_and_nothing_is_lost():
    rng = np.random.default_rng(0)
    losses = rng.normal(size=2 * summing.MOST_POINTS + 500)
    lines = [step(n, float(loss)) for n, loss in enumerate(losses, 1)]
    lines[700]["loss"] = None
    curve = summing.grouped(lines, "loss")
    assert curve.joined == 3 and len(curve.steps) <= summing.MOST_POINTS
    np.testing.assert_allclose(curve.means[0], losses[:3].mean())
    np.testing.assert_allclose(curve.means[233], losses[[699, 701]].mean())
    assert curve.skipped == [702] and curve.steps[-1] == len(losses)


# ---------------------------------------------------------------------------- the signal's page


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
        seen = [contrast(theme.page, shade(step, theme)) for step in range(LEVELS + 1)]
        for step in range(1, LEVELS + 1):
            red, blue = shade(-step, theme), shade(step, theme)
            assert contrast(red, blue) < 1.02
            assert red != blue
        assert all(more > less for less, more in itertools.pairwise(seen))
        assert seen[0] == 1 and seen[-1] > 3
    assert on_black(-2.0) == shade(level(-2.0), TERMINAL) != on_black(2.0)


def test_colours_are_told_apart_without_red_and_green():
    """By their share of blue, which those see as others do who do not tell red from green."""
    for theme in (LIGHT, DARK):
        for step in range(LEVELS // 4, LEVELS + 1):
            red, blue = (int(shade(sign * step, theme)[5:], 16) for sign in (-1, 1))
            assert blue - red > 30 * step / LEVELS


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


def test_tokens_tell_their_numbers_to_pointer_and_keyboard(pages, chat, data, tmp_path):
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


@pytest.mark.parametrize("rows", [32, 500])
def test_heat_maps_have_a_line_of_pixels_for_every_reply(rows, chat, tmp_path):
    many, interactions = replies(chat, *["a"] * rows)
    page = Page(report.write_signal_report(tmp_path, many, interactions, chat, title="mine"))
    (image,) = page.all("img")
    height = int(re.search(r"height:(\d+)px", image["style"])[1])
    assert height % rows == 0 and height // rows >= 3
    ids = [int(re.search(r"top:(-?\d+)px", a["style"])[1]) for a in page.all("a")]
    assert min(np.diff(ids)) >= 14  # legible: a line of text each
    assert len(ids) >= (32 if rows == 32 else 100)


# -------------------------------------------------------------------------------- other things


def test_replies_before_and_after(pages):
    page = pages["replies.html"]
    assert "3 of 2,048 replies are shown. 1 of those shown is the same" in page.outside
    assert page.everything.count("word ") == 900 and page.outside.count("word ") < 200
    assert page.everything.count("follow-up") == 2 and "(empty)" in page.everything


def test_the_terminal_shows_every_token(chat, data):
    scored, interactions = data
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.token_table(scored[0], interactions["c_0"], chat))
    text = console.export_text()
    assert text.count("\n") > len(scored[0].y)
    assert f"{scored[0].signal[3]:+.3f}" in text


def test_before_and_after_in_the_terminal():
    before, after = {"correct": 0.9, "wanted_styles": 0.4}, {"correct": 0.89, "wanted_styles": 0.75}
    assert "+35.0 points" in report.before_after_lines(before, after)[2]
    assert report.before_after_lines(None, after) == []
