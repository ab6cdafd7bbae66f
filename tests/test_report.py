"""The report: self-contained, escaped, with the figures that numpy gives."""

import dataclasses
import io
import re

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from interact_jax import report
from interact_jax.data import thinking
from interact_jax.data.chat import ChatFormat
from interact_jax.report.colour import HIGH, LOW, SignalScale, css, strength
from interact_jax.report.pages import figures
from interact_jax.schema import Interaction, Message
from interact_jax.signal import Scored
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("chatml"), "chatml"))


@pytest.fixture(scope="module")
def data(chat):
    rng = np.random.default_rng(0)
    scored, interactions = [], {}
    for n, text in enumerate(["<script>alert(1)</script> Paris", "a list 🙂\nof words"]):
        ids = np.asarray([*chat.encode(text), chat.eos_id])
        student, teacher = -rng.exponential(size=(2, len(ids)))
        scored.append(Scored(f"c_{n}", ids, student, teacher))
        user, o = Message("user", "hello"), Message("user", "<img src=x> & no")
        interactions[f"c_{n}"] = Interaction(f"c_{n}", (user,), Message("assistant", text), o)
    return scored, interactions


def test_the_page_loads_nothing_and_runs_nothing(chat, data, tmp_path):
    page = report.write_signal_report(tmp_path, *data, chat, title="<b>mine</b>").read_text()
    tags = re.findall(r"<[a-z][^>]*>", page)
    loaded = [tag for tag in tags if "src=" in tag or "href=" in tag]
    assert len(loaded) == 3
    assert all('src="data:image/png;base64,' in tag for tag in loaded)
    for forbidden in ("<script", "<img src=x", "<b>mine", "http"):
        assert forbidden not in page
    assert "&lt;img src=x&gt; &amp; no" in page


def test_pictures_are_drawn(chat, data, tmp_path):
    report.write_signal_report(tmp_path, *data, chat, title="mine")
    for name in ("signal_heatmap", "signal_by_position", "signal_histogram"):
        assert imread(tmp_path / f"{name}.png").std() > 0.01


def test_figures_are_those_of_numpy(data):
    tokens = np.concatenate([s.logp_teacher - s.logp_student for s in data[0]])
    found = figures([s.signal for s in data[0]])
    assert found["reply tokens"] == len(tokens)
    np.testing.assert_allclose(found["mean |signal|"], np.abs(tokens).mean())
    np.testing.assert_allclose(
        found["share of tokens with |signal| > 0.5"], (np.abs(tokens) > 0.5).mean()
    )


def test_colour_grows_with_the_signal_from_red_over_nothing_to_blue():
    signals = np.linspace(LOW - 1, HIGH + 1, 200)
    shades = [strength(s) for s in signals]
    assert (np.diff(shades) >= 0).all()
    assert (shades[0], strength(0.0), shades[-1]) == (-1, 0, 1)
    assert css(-2.0).startswith("rgba(214") and css(2.0).startswith("rgba(36")
    scale = SignalScale()
    np.testing.assert_allclose(scale.inverse(scale([-4.0, 0.0, 0.7])), [-4, 0, 0.7], atol=1e-9)


def test_how_the_prompt_was_rendered_is_told(chat, data, tmp_path):
    """On the page and in the terminal, of the reply that has reasoning alone."""
    scored, interactions = data
    scored = [dataclasses.replace(scored[0], reasoning=thinking.KEPT), scored[1]]
    page = report.write_signal_report(tmp_path, scored, interactions, chat, title="mine")
    headers = re.findall("<header>(.*?)</header>", page.read_text())
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


def test_before_and_after(tmp_path):
    before, after = {"correct": 0.9, "wanted": 0.4}, {"correct": 0.89, "wanted": 0.75}
    assert "+35.0 points" in report.before_after_lines(before, after)[2]
    assert report.before_after_lines(None, after) == []
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(
        '{"step": 1, "loss": 1.0, "signal_abs_mean": 0.1, "grad_norm": 2.0}\n'
        '{"step": 2, "loss": null, "signal_abs_mean": null, "grad_norm": null}\n'
    )
    page = report.write_run_report(
        tmp_path, metrics_file=metrics, shown="signal_abs_mean", before=before, after=after
    )
    assert page.read_text().count("data:image/png") == 2
    assert (tmp_path / "before_after.png").exists()
