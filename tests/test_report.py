"""The pages of a report: self-contained, escaped, legible everywhere; those of runs and replies."""

import contextlib
import dataclasses
import io
import itertools
import json
import re

import numpy as np
import pytest
from rich.console import Console

from interact_jax import config, progress, report
from interact_jax.data import thinking
from interact_jax.data.chat import ChatFormat
from interact_jax.objectives import OBJECTIVES
from interact_jax.report import html, measures, summing
from interact_jax.report.colour import (
    DARK,
    LEVELS,
    LIGHT,
    TERMINAL,
    contrast,
    shade,
)
from interact_jax.report.losses import LOSSES
from interact_jax.report.style import DARK_COLOURS, LIGHT_COLOURS
from interact_jax.schema import Interaction, Message
from interact_jax.signal import Scored
from launch import train
from tests.pages import Page, replies, run_page, step
from tests.runs import train_arguments
from tests.tiny import tiny_tokenizer

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

EVIL = "<script>alert(1)</script><img src=x> & \u202eback\x1b[31m\0"


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("chatml"), "chatml"))


@pytest.fixture(scope="module")
def data(chat):
    return replies(chat, "<script>alert(1)</script> Paris", "a list 🙂\nof words")


ROWS = [
    report.Row([Message("user", "p")], "same", "same"),
    report.Row([Message("system", EVIL), Message("user", EVIL)], EVIL, "after", EVIL),
    report.Row([Message("user", "p")], "word " * 900, "", "o"),
]


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
    sampled = report.write_replies_page(folder, ROWS, 2048)
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
    assert html.escape_text("👨\u200d👩 می\u200cشود\r\nx") == "👨\u200d👩 می\u200cشود\nx"
    assert html.escape_text("\ud83d").encode() == b'<span class="odd">\\ud83d</span>'


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


@pytest.mark.slow
def test_a_run_writes_both_pages(tmp_path):
    settings = {"steps": 2, "epochs": 0, "report.interactions": 3, "check_hindsight": 0}
    settings["evaluation.holdout"] = 0.0
    train.main(train_arguments(tmp_path, settings | {"evaluation.name": "none"}))
    index, signal = (Page(tmp_path / "report" / name) for name in NAMES[:2])
    assert index.all("a", href="signal.html") and signal.all("a", href="index.html")
    assert "2 steps" in index.outside and "counted reply tokens" in index.outside
    assert "3 of the 4,096 in the data" in signal.outside
    learned = json.loads((tmp_path / "summary.json").read_text())["interactions"]
    assert f"{learned} learned from" in index.outside


def test_writing_a_report_is_not_silent(chat, data, tmp_path, monkeypatch):
    shown = []

    def record(what):
        shown.append(what)
        return contextlib.nullcontext()

    monkeypatch.setattr(progress, "_lines", record)
    monkeypatch.setattr(progress.log, "isEnabledFor", lambda level: True)
    run_page(tmp_path)
    report.write_signal_report(tmp_path, *data, chat, title="mine")
    assert shown == ["writing the report"] * 2


def test_nothing_is_linked_that_is_not_there(chat, data, tmp_path):
    assert not Page(run_page(tmp_path / "run")).all("a")
    assert not Page(report.write_replies_page(tmp_path / "x", ROWS, 3)).all("a", href="signal.html")
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


def test_measures_are_explained_in_a_fold(pages, tmp_path):
    meaning = measures.MEASURES["wanted_styles"].meaning
    page = pages["index.html"]
    assert meaning in page.everything and meaning not in page.outside
    assert all(measure.meaning for measure in measures.MEASURES.values())
    unknown = Page(run_page(tmp_path, before={"bleu": 1.0}, after={"bleu": 2.0}))
    assert "What these mean" not in unknown.everything


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


def test_the_loss_of_clipped_ratios_is_another(tmp_path):
    text = Page(run_page(tmp_path, [step(1)], changed={"objective.ratio": "trainer"})).outside
    assert "clipped ratio" in text and "no floor at 0" in text and LOSSES["sdpo"] not in text


def test_a_run_without_steps_has_a_page(tmp_path):
    assert "No step has been done." in Page(run_page(tmp_path)).outside


def test_long_logs_are_joined_and_nothing_is_lost():
    rng = np.random.default_rng(0)
    losses = rng.normal(size=2 * summing.MOST_POINTS + 500)
    lines = [step(n, float(loss)) for n, loss in enumerate(losses, 1)]
    lines[700]["loss"] = None
    curve = summing.group_steps(lines, "loss")
    assert curve.joined == 3 and len(curve.steps) <= summing.MOST_POINTS
    np.testing.assert_allclose(curve.means[0], losses[:3].mean())
    np.testing.assert_allclose(curve.means[233], losses[[699, 701]].mean())
    assert curve.skipped == [702] and curve.steps[-1] == len(losses)


# -------------------------------------------------------------------------------- other things


def test_replies_before_and_after(pages):
    page = pages["replies.html"]
    assert "3 of 2,048 replies are shown. 1 of those shown is the same" in page.outside
    articles = page.source.split("<article")[1:]
    assert ["the same before" in article for article in articles] == [False, False, True]
    assert page.everything.count("word ") == 900 and page.outside.count("word ") < 200
    assert page.everything.count("follow-up") == 2 and "(empty)" in page.everything


def test_the_history_of_a_prompt_is_folded(pages):
    page = pages["replies.html"]
    assert page.outside.count("1 earlier message") == 1 and "system" not in page.outside
    assert "system" in page.everything


def test_held_out_measures_have_a_table_of_their_own(tmp_path):
    values = {"readable": 0.5, "held_out_readable": 0.25}
    page = Page(run_page(tmp_path, before=values, after=values))
    assert len(page.classed("numbers")) == 2
    assert re.search(r"on held-out conversations.*readable replies\s*25.0%", page.outside, re.S)
    assert "held-out readable replies 25.0% before" in page.source


def test_how_the_prompt_was_rendered_is_told(chat, data, tmp_path):
    """On the page and in the terminal, of the reply that has reasoning alone."""
    scored, interactions = data
    scored = [dataclasses.replace(scored[0], reasoning=thinking.KEPT), scored[1]]
    page = report.write_signal_report(tmp_path, scored, interactions, chat, title="mine")
    headers = re.findall("<summary>(.*?)</summary>", page.read_text())
    assert sorted("thinking on" in header for header in headers) == [False, True]
    for one in scored:
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(report.token_table(one, interactions[one.id], chat))
        assert ("thinking on" in console.export_text()) == bool(one.reasoning)


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
