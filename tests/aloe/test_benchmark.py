"""The benchmark played in a world whose scores are known: what is asked, kept, counted, resumed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from interact_jax.aloe import benchmark
from interact_jax.aloe.benchmark import FIELDS, ModelReplier, play
from interact_jax.aloe.results import notes_on, results, table
from interact_jax.generation.engine import SamplingParams
from interact_jax.judges.store import Store
from interact_jax.schema import RunStopped
from tests.aloe.counting import STEPS, CountingCast, Learner, personas

TURNS, DRAWS = 5, 200
GREEDY = SamplingParams(max_new_tokens=16, temperature=0.0)


def replier(model, name="learner"):
    return ModelReplier(name, model, GREEDY, {"kind": model.stubborn})


def played(folder, cast, model, cases=7, turns=TURNS, **more):
    with Store.open(folder / "turns.jsonl", *FIELDS) as store:
        return play(cast, replier(model), personas(cases), turns, store, **more)


def known_scores(cases, turns=TURNS):
    """What a learner reaches, by arithmetic."""
    liked = np.array([each.traits["likes"] for each in personas(cases)])[:, None]
    return np.maximum(1, 5 - np.maximum(0, liked - STEPS * np.arange(turns)))


def test_scores_are_those_of_what_was_said(tmp_path):
    cast, learner = CountingCast(), Learner()
    talks = played(tmp_path, cast, learner)
    scores = benchmark.scores_of(talks, TURNS)
    np.testing.assert_array_equal(scores, known_scores(7))
    assert cast.asked == {"speak": 35, "score": 35} and learner.asked == 35
    right = benchmark.right_of(talks, TURNS)
    assert right[0].all() and not right[6, 0] and right[6, 1:].all()  # likes 4, likes 10
    assert [turn.reply.text for turn in talks[0].turns][:3] == ["Take 0.", "Take 3.", "Take 4."]
    assert benchmark.counts_of(talks) == {
        **dict.fromkeys(("ended_by_user", "ended_by_model", "judge_failed"), 0),
        **dict.fromkeys(("judge_unreadable", "cut", "empty"), 0),
        "reasoned": 35,
    }


def test_the_model_sees_the_conversation_and_nothing_else(tmp_path):
    seen = []

    class Watched(Learner):
        def answer(self, dialogues, params, seeds=None):
            seen.extend(dialogues)
            assert params == GREEDY
            return super().answer(dialogues, params, seeds)

    (talk,) = played(tmp_path, CountingCast(), Watched(), cases=1, turns=3)
    roles = [[message.role for message in dialogue] for dialogue in seen]
    assert roles == [["user", *("assistant", "user") * n] for n in range(3)]
    said = [text for turn in talk.turns for text in (turn.said, turn.reply.text)]
    assert [message.content for message in seen[-1]] == said[:-1]
    assert "think" not in "".join(said)


def test_cases_are_independent_of_one_another_and_of_portions(tmp_path):
    one = Learner()
    alone = played(tmp_path / "one", CountingCast(), one, cases=7, portion=1)
    other = Learner()
    together = played(tmp_path / "all", CountingCast(), other, cases=7, portion=64)
    fewer = played(tmp_path / "few", CountingCast(), Learner(), cases=3)
    assert alone == together and together[:3] == fewer
    assert (one.calls, other.calls) == (35, 5)
    assert sorted(one.seeds) == sorted(other.seeds) and len(set(other.seeds)) == 35
    twice = benchmark.names_of(personas(2) * 2)
    assert len(set(twice)) == 4 and twice[2:] == [f"{name}-2" for name in twice[:2]]


def test_all_models_meet_the_same_users(tmp_path):
    """Each says the same in its first message; another seed is another user."""
    by_learner = played(tmp_path, CountingCast(), Learner())
    by_other = played(tmp_path, CountingCast(), Learner(stubborn=True))
    first = [[talk.turns[0].said for talk in talks] for talks in (by_learner, by_other)]
    assert first[0] == first[1] and len(set(first[0])) > 1
    seeded = played(tmp_path, CountingCast(seed=1), Learner(), seed=1)
    assert [talk.turns[0].said for talk in seeded] != first[0]


@pytest.mark.parametrize("calls", (0, 1, 4, 7))
def test_a_benchmark_that_was_killed_goes_on(tmp_path, calls):
    whole = played(tmp_path / "whole", CountingCast(), Learner(), portion=4)
    cast, dying = CountingCast(), Learner(dies=calls)
    with pytest.raises(KeyboardInterrupt):
        played(tmp_path / "killed", cast, dying, portion=4)
    with (tmp_path / "killed/turns.jsonl").open("ab") as file:
        file.write(b'{"key": "half a li')
    rest = Learner()
    assert played(tmp_path / "killed", cast, rest, portion=4) == whole
    assert dying.asked + rest.asked == 35  # no reply was made twice
    assert cast.asked == {"speak": 35, "score": 35}
    lines = [(tmp_path / name / "turns.jsonl").read_bytes() for name in ("whole", "killed")]
    assert lines[0] == lines[1]


def test_other_settings_are_another_benchmark(tmp_path):
    played(tmp_path, CountingCast(), Learner())
    other = Learner(stubborn=True)
    played(tmp_path, CountingCast(), other)
    assert other.asked == 35
    cast = CountingCast()
    cast.settings = {"world": "another"}
    again = Learner()
    played(tmp_path, cast, again)
    assert cast.asked == {"speak": 35, "score": 35}
    assert again.asked == 0  # the same model was told the same


def test_what_failed_is_counted_never_guessed_and_asked_again(tmp_path):
    wrong = {
        "silent": [("Person 0", 3)],
        "lost": [("Person 1", 1)],
        "mumbling": [("Person 2", 2), ("Person 3", 4)],
        "gone": [("Person 3", 1)],
    }
    talks = played(tmp_path, CountingCast(**wrong), Learner())
    missing = np.zeros((7, TURNS), bool)
    missing[0, 2:] = missing[1] = missing[2, 1] = missing[3, 3] = missing[3, 0] = True
    scores = benchmark.scores_of(talks, TURNS)
    np.testing.assert_array_equal(np.isnan(scores), missing)
    np.testing.assert_array_equal(scores[~missing], known_scores(7)[~missing])
    counts = benchmark.counts_of(talks)
    assert (counts["ended_by_user"], counts["ended_by_model"]) == (2, 0)
    assert (counts["judge_failed"], counts["judge_unreadable"]) == (1, 2)
    notes = list(notes_on("learner", talks))
    assert notes[0].startswith("learner: 2 conversations ended early, as the user failed, such as")
    assert "learner: 1 of 27 answers of the judge failed, such as: the judge is ill" in notes
    unread = "learner: 2 of 27 answers of the judge could not be read, such as: 'rather good'"
    assert unread in notes
    found = results({"learner": talks}, TURNS, DRAWS)["models"][0]
    assert (found["missing"], found["unscored"]) == (3 + 5 + 3, 1)
    # A world that is well again: answers that came are final, also those that are of no use.
    well, rest = CountingCast(), Learner()
    mended = benchmark.scores_of(played(tmp_path, well, rest), TURNS)
    missing[1] = missing[3, 0] = False
    np.testing.assert_array_equal(np.isnan(mended), missing)
    assert well.asked == {"speak": 5, "score": 5 + 1} and rest.asked == 5


def test_a_model_that_fails_ends_its_conversations(tmp_path):
    talks = played(tmp_path, CountingCast(), Learner(broken=[4]))
    assert {talk.ended for talk in talks} == {benchmark.MODEL}
    assert {len(talk.turns) for talk in talks} == {3}
    found = results({"learner": talks}, TURNS, DRAWS)
    assert found["models"][0]["ended_by_model"] == 7 and found["models"][0]["missing"] == 14
    assert found["models"][0]["al"][3:] == [None, None]
    (note, *_) = found["notes"]
    assert note.endswith("as the model failed, such as: no room left")
    assert table(found["models"])[1].split()[2] == "–"


def test_a_model_out_of_reach_stops_it_and_what_was_said_stays(tmp_path):
    class Gone(Learner):
        def _reply(self, dialogue):
            answer = super()._reply(dialogue)
            return dataclasses.replace(answer, refused=False)

    with pytest.raises(RunStopped, match=r"no answer in 7 of 7 conversations \(no room left\)"):
        played(tmp_path, CountingCast(), Gone(broken=[4]))
    well = Learner()
    talks = played(tmp_path, CountingCast(), well)
    assert {len(talk.turns) for talk in talks} == {TURNS} and well.asked == 7 * (TURNS - 3)


def test_models_side_by_side(tmp_path):
    cases = 14
    talks = {
        name: played(tmp_path, CountingCast(), Learner(stubborn=name == "stubborn"), cases)
        for name in ("stubborn", "learner")
    }
    found = results(talks, TURNS, DRAWS)
    stubborn, learner = found["models"]
    assert stubborn["al"][0] == learner["al"][0] and stubborn["ir"]["high"] == 0
    assert stubborn["constant"] == cases and stubborn["n_ir"] is None
    assert learner["ir"]["low"] > 0.5 and learner["constant"] == 0
    apart = learner["against_first"]
    assert stubborn["against_first"] is None and apart["al_first"]["value"] == 0
    expected = known_scores(cases)
    assert apart["al_last"]["value"] == pytest.approx((expected[:, -1] - expected[:, 0]).mean())
    assert learner["scores"] == expected.tolist()
    assert apart["right"]["value"] == pytest.approx((2 / 14) * 4 / 5)
    lines = table(found["models"])
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("stubborn") and lines[2].startswith("learner")
    assert lines[2].split()[1:4] == [
        f"{each['value']:.{digits}f}"
        for each, digits in ((learner["al"][0], 2), (learner["al"][-1], 2), (learner["ir"], 3))
    ]
    assert "Differences from stubborn, paired by case:" in lines
    assert lines[-3].split()[:2] == ["learner", "AL(5)"] and lines[-1].split()[0] == "right"


def test_a_table_of_long_names_and_large_numbers_fits(tmp_path):
    talks = played(tmp_path, CountingCast(), Learner())
    names = ("/a/long/way/to/the/first", "/a/long/way/to/the/second")
    found = results(dict.fromkeys(names, talks), TURNS, DRAWS)["models"]
    for each in found:
        each["ir"] = {"value": -0.123, "low": -1.255, "high": -1.111, "error": 0.1}
        each["missing"] = 1000
    assert max(map(len, table(found))) <= 80
