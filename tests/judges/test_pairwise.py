"""Outcomes of votes in both orders, and the figures over them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from interact_jax.judges.judge import FAILED, FIRST, NEITHER, SECOND, UNPARSABLE, Verdict
from interact_jax.judges.pairwise import (
    BASELINE,
    CANDIDATE,
    LOSS,
    TIE,
    VERDICT_FIELDS,
    WIN,
    Judgement,
    Vote,
    figures,
    judge_pairs,
)
from interact_jax.judges.store import Store
from tests.judges.programs import ProgramJudge, longer, pair


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "verdicts.jsonl", *VERDICT_FIELDS) as opened:
        yield opened


def judgement(candidate_first, baseline_first, **where):
    votes = (Vote(CANDIDATE, Verdict(candidate_first)), Vote(BASELINE, Verdict(baseline_first)))
    return Judgement(pair("x", "y", **where), "judge", votes)


@pytest.mark.parametrize(
    "candidate_first, baseline_first, outcome",
    [
        (FIRST, SECOND, WIN),
        (SECOND, FIRST, LOSS),
        (NEITHER, NEITHER, TIE),
        (FIRST, FIRST, TIE),  # whatever stands first
        (SECOND, SECOND, TIE),
        (FIRST, NEITHER, TIE),
        (NEITHER, FIRST, TIE),
        (FIRST, UNPARSABLE, UNPARSABLE),
        (UNPARSABLE, UNPARSABLE, UNPARSABLE),
        (FAILED, UNPARSABLE, FAILED),
        (SECOND, FAILED, FAILED),
    ],
)
def test_outcomes(candidate_first, baseline_first, outcome):
    assert judgement(candidate_first, baseline_first).outcome == outcome


def test_one_vote_of_a_person_is_the_outcome():
    for first, choice, outcome in (
        (CANDIDATE, FIRST, WIN),
        (CANDIDATE, SECOND, LOSS),
        (BASELINE, FIRST, LOSS),
        (BASELINE, SECOND, WIN),
        (BASELINE, NEITHER, TIE),
    ):
        votes = (Vote(first, Verdict(choice)),)
        assert Judgement(pair("x", "y"), "p", votes).outcome == outcome


def some_pairs(swapped=False):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 5, (60, 2))
    texts = [("a" * a, "b" * b) for a, b in lengths]
    return [
        pair(*(both[::-1] if swapped else both), prompt=f"p{n % 20}", sample=n // 20)
        for n, both in enumerate(texts)
    ]


def test_a_judge_without_bias_mirrors_when_the_sides_are_swapped(store):
    judge = ProgramJudge(longer)
    ours, theirs = (figures(judge_pairs(judge, some_pairs(swapped), store)) for swapped in (0, 1))
    assert (ours["wins"], ours["losses"]) == (theirs["losses"], theirs["wins"])
    assert ours["wins"] != ours["losses"]
    for name in ("win_rate", "win_rate_decided"):
        assert ours[name]["value"] == pytest.approx(1 - theirs[name]["value"])
        assert ours[name]["error"] == pytest.approx(theirs[name]["error"])
    assert ours["agreement"]["value"] == 1
    assert ours["first_chosen"]["value"] == 0.5
    assert ours["coverage"] == theirs["coverage"]


def test_a_judge_that_takes_the_first_decides_nothing(store):
    found = figures(judge_pairs(ProgramJudge(lambda comparison: FIRST), some_pairs(), store))
    assert (found["wins"], found["losses"], found["ties"]) == (0, 0, 60)
    assert found["win_rate"]["value"] == 0.5 and found["win_rate_decided"] is None
    assert found["coverage"]["value"] == 0 and found["agreement"]["value"] == 0
    assert found["first_chosen"]["value"] == 1


def test_figures_against_plain_counts():
    rng = np.random.default_rng(5)
    choices = (FIRST, SECOND, NEITHER, UNPARSABLE, FAILED)
    drawn = rng.choice(5, (400, 2), p=[0.45, 0.25, 0.15, 0.1, 0.05])
    judged = [
        judgement(choices[a], choices[b], prompt=f"p{n // 4}", sample=n % 4)
        for n, (a, b) in enumerate(drawn)
    ]
    found = figures(judged, draws=3000)
    wins = sum(a == 0 and b == 1 for a, b in drawn)
    losses = sum(a == 1 and b == 0 for a, b in drawn)
    read = [(a, b) for a, b in drawn if a < 3 and b < 3]
    failed = sum(4 in (a, b) for a, b in drawn)
    assert (found["pairs"], found["prompts"]) == (400, 100)
    assert (found["wins"], found["losses"]) == (wins, losses)
    assert found["ties"] == len(read) - wins - losses
    assert (found["failed"], found["unparsable"]) == (failed, 400 - len(read) - failed)
    decided, judged_pairs = wins + losses, len(read)
    expected = {
        "win_rate": (wins + (judged_pairs - decided) / 2) / judged_pairs,
        "win_rate_decided": wins / decided,
        "coverage": decided / judged_pairs,
        "first_chosen": sum(x == 0 for both in read for x in both)
        / sum(x < 2 for both in read for x in both),
        "agreement": (decided + sum(a == b == 2 for a, b in read)) / judged_pairs,
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value), name
        assert found[name]["low"] < value < found[name]["high"]
    # The win rate's error, over prompts, by a plain loop.
    share, sums = expected["win_rate"], []
    for start in range(0, 400, 4):
        some = [(a, b) for a, b in drawn[start : start + 4] if a < 3 and b < 3]
        points = sum(1 if (a, b) == (0, 1) else 0 if (a, b) == (1, 0) else 0.5 for a, b in some)
        sums.append((points, len(some)))
    n = sum(count > 0 for _, count in sums)
    squares = sum((points - share * count) ** 2 for points, count in sums)
    error = (n / (n - 1) * squares) ** 0.5 / judged_pairs
    assert found["win_rate"]["error"] == pytest.approx(error)


def test_figures_of_nothing_are_none():
    for judged in ([], [judgement(FAILED, FIRST), judgement(UNPARSABLE, FIRST)]):
        found = figures(judged, draws=100)
        assert found["pairs"] == len(judged)
        for name in ("win_rate", "win_rate_decided", "coverage", "first_chosen", "agreement"):
            assert found[name] is None


def test_figures_of_ties_alone():
    """Nothing was decided: the win rate is that of ties, and what is over decided pairs is None."""
    judged = [judgement(NEITHER, NEITHER, prompt=f"p{n}") for n in range(3)]
    found = figures(judged, draws=100)
    assert (found["wins"], found["losses"], found["ties"]) == (0, 0, 3)
    assert found["win_rate"] == {"value": 0.5, "error": 0, "low": 0.5, "high": 0.5}
    assert found["win_rate_decided"] is None and found["first_chosen"] is None
    assert found["coverage"]["value"] == 0 and found["agreement"]["value"] == 1


def test_intervals_of_few_judgements():
    """One says nothing of its error; of two that disagree everything is possible; one decided pair
    among ties has no error of its own."""
    won, lost = judgement(FIRST, SECOND, prompt="a"), judgement(SECOND, FIRST, prompt="b")
    tied = judgement(FIRST, FIRST, prompt="c")
    assert figures([won], draws=100)["win_rate"] == {
        "value": 1,
        "error": None,
        "low": 1,
        "high": 1,
    }
    both = figures([won, lost], draws=400)["win_rate"]
    assert (both["value"], both["low"], both["high"]) == (0.5, 0, 1)
    assert both["error"] == pytest.approx(0.5)
    decided = figures([won, tied], draws=400)["win_rate_decided"]
    assert (decided["value"], decided["error"], decided["low"], decided["high"]) == (1, None, 1, 1)


def test_what_was_answered_is_not_asked_again_and_what_failed_is(tmp_path):
    pairs = [pair("long", "s", prompt="p"), pair("equal", "equal", prompt="p")]
    answers = itertools.cycle([FAILED, UNPARSABLE, FIRST])
    with Store.open(tmp_path / "verdicts.jsonl", *VERDICT_FIELDS) as store:
        judge = ProgramJudge(lambda comparison: next(answers))
        judged = judge_pairs(judge, pairs, store)
        assert len(judge.asked) == 3  # the orders of equal replies are one comparison
        assert [each.outcome for each in judged] == [FAILED, TIE]
    with Store.open(tmp_path / "verdicts.jsonl", *VERDICT_FIELDS) as store:
        judge = ProgramJudge(longer)
        judged = judge_pairs(judge, pairs, store)
        assert [(c.first, c.second) for c in judge.asked] == [("long", "s")]
        assert [each.outcome for each in judged] == [UNPARSABLE, TIE]
        other = ProgramJudge(longer, name="another")
        assert [each.outcome for each in judge_pairs(other, pairs, store)] == [WIN, TIE]
        assert len(other.asked) == 3


def test_a_judgement_names_its_judge_and_has_both_votes(store):
    (judged,) = judge_pairs(ProgramJudge(longer), [pair("long", "s", sample=2, index=7)], store)
    line = judged.line("ours", "theirs")
    assert line["judge"] == "program" and (line["prompt"], line["sample"]) == (7, 2)
    assert (line["candidate"], line["baseline"], line["outcome"]) == ("ours", "theirs", WIN)
    assert [(v["first"], v["choice"]) for v in line["votes"]] == [
        (CANDIDATE, CANDIDATE),
        (BASELINE, CANDIDATE),
    ]
    assert (line["candidate_reply"], line["baseline_reply"]) == ("long", "s")
