"""The benchmark's page: what a reader finds on it."""

from __future__ import annotations

import re

import pytest

from interact_jax.aloe import page as pages
from interact_jax.aloe.benchmark import FIELDS, ModelReplier, play
from interact_jax.aloe.cast import Persona
from interact_jax.aloe.results import lines_of, results
from interact_jax.generation.engine import SamplingParams
from interact_jax.judges.store import Store
from tests.aloe.counting import CountingCast, Learner, personas
from tests.pages import Page

TURNS, CASES = 4, 9
SETTINGS = {"temperature": 0.0, "max_new_tokens": 16}
ABOUT = {"cases": CASES, "user": "a <user>", "judge": "counts", "settings": SETTINGS}


def written(folder, people=None, **models):
    people = people or personas(CASES)
    cast = CountingCast(silent=[("Person 0", 3)], mumbling=[("Person 1", 2)])
    with Store.open(folder / "turns.jsonl", *FIELDS) as store:
        played = {
            name: play(
                cast,
                ModelReplier(name, model, SamplingParams(temperature=0.0), {"name": name}),
                people,
                TURNS,
                store,
            )
            for name, model in models.items()
        }
    found = ABOUT | results(played, TURNS, 200)
    return found, Page(pages.write_page(folder / "out", found, list(lines_of(played))))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    models = {"<base>": Learner(stubborn=True), "learner": Learner()}
    return written(tmp_path_factory.mktemp("page"), **models)


def test_it_shows_what_was_measured(both):
    found, page = both
    base, learner = found["models"]
    shown = page.outside.replace("\n", "")
    for k in (0, TURNS - 1):
        level = learner["al"][k]
        cell = f"{level['value']:.2f} ({level['low']:.2f} to {level['high']:.2f})"
        assert f"AL({k + 1})" in shown and cell in shown
    for name in ("ir", "r2", "n_ir", "n_r2"):
        assert f"{learner[name]['value']:.3f} (" in shown
    assert base["r2"] is None and "0.000 (0.000 to 0.000)–" in shown  # the slope, and no R2
    difference = learner["against_first"]["al_last"]
    assert f"{difference['value']:.2f} ({difference['low']:.2f}" in shown
    assert "Differences from <base>" in shown and "a <user>" in shown
    assert f"{learner['right']['value']:.1%}" in shown
    missing = shown[shown.index("What is missing") :]
    parts = [f"{learner[name]:,}" for name in ("missing", "judge_failed", "judge_unreadable")]
    assert f"learner{''.join(parts)}" in missing
    assert "such as: 'rather good'" in shown  # the note
    (picture,) = page.all("svg")
    assert re.search(r"<base> \d\.\d\d at turn 1, .*; learner \d", picture["aria-label"])


def test_it_is_one_file_without_scripts(both):
    _, page = both
    assert "<base>" not in page.source and "&lt;base&gt;" in page.source
    assert not page.all("script") and not page.all("link") and not page.all("img")
    assert "default-src 'none'" in page.source


def test_conversations_of_a_case_stand_side_by_side(both):
    _, page = both
    assert len(page.classed("sides")) == 3 and "3 of 9 cases are shown." in page.outside
    assert len(page.classed("reply")) == 2 * (2 + TURNS + TURNS)
    assert "ended early, as the user failed: said nothing" in page.outside
    assert page.outside.count("model, score") == 2 * (2 + TURNS + TURNS)
    assert [case for case in range(1, CASES + 1) if f"case {case}" in page.outside] == [1, 4, 7]


def test_a_single_model_and_one_that_never_replied(tmp_path):
    found, page = written(tmp_path, learner=Learner(broken=[1]))
    assert "No reply was scored." in page.outside and "Differences" not in page.outside
    assert found["models"][0]["missing"] == CASES * TURNS
    assert "as the model failed: no room left" in page.outside


def test_texts_of_others_are_escaped(tmp_path):
    people = [Persona("<script>x</script>", "\x1b[31m", {"likes": 4})]
    _, page = written(tmp_path, people, learner=Learner())
    assert not page.all("script") and "<script>x</script>" in page.outside
    assert "\\x1b" in page.outside
