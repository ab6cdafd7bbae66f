"""Rounds and conversations with a cast whose words are known, and whose faults are planned."""

import json

import pytest

from interact_jax.aloe.cast import Persona, Score
from interact_jax.aloe.converse import Plan, converse
from interact_jax.aloe.rounds import JUDGED, NO_VERDICT, PAPER, SAME, Talk, play
from interact_jax.data.conversations import read_conversations
from interact_jax.data.recipes import RECIPES
from interact_jax.generation.chat_model import Answer
from interact_jax.schema import InputError, RunStopped

pytestmark = pytest.mark.one_device
SOMEBODY = Persona("A baker.", "Dry.")


class Scripted:
    """Says where it is. `faults` has answers by (role, scene id, turn) in place of its own, and
    `verdicts` those of the judge by (conversation, turn)."""

    def __init__(self, faults=None, verdicts=None):
        self.faults, self.verdicts = faults or {}, verdicts or {}
        self.settings, self.asked = {"cast": "scripted"}, []

    def _say(self, role, scenes, texts):
        self.asked += [(role, scene.id, scene.turn) for scene in scenes]
        return [
            self.faults.get((role, scene.id, scene.turn), Answer(text))
            for scene, text in zip(scenes, texts, strict=True)
        ]

    def speak(self, scenes):
        return self._say("user", scenes, [f"{s.id} says {s.turn + 1}" for s in scenes])

    def infer(self, scenes):
        return self._say("inducer", scenes, [f"said {s.turn}" for s in scenes])

    def reply(self, scenes, hints):
        return self._say("responder", scenes, [f"reply ({hint})" for hint in hints])

    def order(self, scenes, hinted, plain):
        return [self.verdicts.get((s.id, s.turn), True) for s in scenes]

    def score(self, scenes, replies):
        return [Score(3)] * len(scenes)


def talk(cast, pairs=PAPER, rounds=2, name="c"):
    one = Talk(name, SOMEBODY)
    for _ in range(rounds):
        play(cast, [one], pairs, seed=0)
    return one


def test_a_lost_answer_is_asked_for_again_with_the_same_seeds_then_with_others():
    lost = Answer("", error="gone")
    cast = Scripted({("user", name, 1): lost for name in ("c", "c/2")})
    found = talk(cast)
    assert [a[1] for a in cast.asked if a[0] == "user" and a[2] == 1] == ["c", "c", "c/2", "c/3"]
    assert found.turns[1].user.content == "c/3 says 2" and found.retries == 1


@pytest.mark.parametrize(
    "role, turn, answer, reason",
    [
        ("user", 0, Answer("", error="gone"), "user: no answer"),
        ("user", 0, Answer(" "), "user: an empty answer"),
        ("inducer", 1, Answer("", error="gone"), "inducer: no answer"),
        ("responder", 1, Answer(""), "responder: an empty answer"),
    ],
)
def test_what_fails_for_good_is_dropped_and_the_others_go_on(tmp_path, role, turn, answer, reason):
    faults = {(role, f"aloe-1{again}", turn): answer for again in ("", "/2", "/3")}
    summary = converse(Scripted(faults), lambda n: SOMEBODY, "", Plan(3, rounds=2), tmp_path)
    assert summary["dropped"] == {reason: 1} and summary["kept"] == 2
    assert summary["examples"] == {reason: answer.error}
    lines = (tmp_path / "conversations.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["aloe-0", "aloe-2"]


def test_an_inducer_may_find_nothing_and_equal_replies_are_no_pair():
    found = talk(Scripted({("inducer", "c", 1): Answer("")}))
    assert [turn.no_pair for turn in found.turns] == [SAME, ""]
    assert [turn.hinted_is_preferred for turn in found.turns] == [None, True]


def test_the_judges_verdict_counts_where_pairs_are_judged():
    cast = Scripted(verdicts={("c", 1): False, ("c", 2): None})
    found = talk(cast, JUDGED, rounds=3)
    assert [turn.hinted_is_preferred for turn in found.turns] == [False, None, True]
    assert [turn.no_pair for turn in found.turns] == ["", NO_VERDICT, ""]
    assert [turn.hinted_is_preferred for turn in talk(cast, PAPER, rounds=2).turns] == [True, True]


def test_either_reply_continues_by_seed_and_conversation():
    found = [talk(Scripted(), rounds=10, name=f"c{n}") for n in range(20)]
    continues = [[turn.hinted_continues for turn in one.turns] for one in found]
    assert 70 < sum(map(sum, continues)) < 130
    assert len({tuple(each) for each in continues}) > 15
    assert continues[0] == [
        t.hinted_continues for t in talk(Scripted(), rounds=10, name="c0").turns
    ]


def test_nothing_is_dropped_when_nothing_answers(tmp_path):
    lost = Answer("", error="gone")
    names = [f"aloe-{n}{again}" for n in range(2, 4) for again in ("", "/2", "/3")]
    cast = Scripted({("responder", name, 2): lost for name in names})
    plan = Plan(4, rounds=2, portion=2)
    with pytest.raises(RunStopped, match=r"2 of 2 conversations: responder: no answer \(gone\)"):
        converse(cast, lambda n: SOMEBODY, "", plan, tmp_path)
    assert not (tmp_path / "conversations.jsonl").exists()
    cast.faults.clear()
    assert converse(cast, lambda n: SOMEBODY, "", plan, tmp_path)["kept"] == 4


def test_a_portion_that_was_half_written_is_written_again(tmp_path):
    class Killed(Exception):
        pass

    def people(number):
        if number == 2:  # the first of the second portion
            raise Killed
        return SOMEBODY

    plan = Plan(4, rounds=1, portion=2)
    with pytest.raises(Killed):
        converse(Scripted(), people, "", plan, tmp_path)
    with (tmp_path / "conversations.partial.jsonl").open("a") as file:
        file.write('{"id": "aloe-2", "mess')
    converse(Scripted(), lambda n: SOMEBODY, "", plan, tmp_path)
    converse(Scripted(), lambda n: SOMEBODY, "", plan, tmp_path)
    lines = (tmp_path / "conversations.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"aloe-{n}" for n in range(4)]


def test_data_that_were_lost_or_are_of_others_are_named(tmp_path):
    plan = Plan(2, rounds=1)
    converse(Scripted(), lambda n: SOMEBODY, "", plan, tmp_path)
    with pytest.raises(InputError, match="other models, personas or settings"):
        converse(Scripted(), lambda n: SOMEBODY, "others", plan, tmp_path)
    (tmp_path / "conversations.jsonl").write_text("short")
    with pytest.raises(InputError, match=r"5 bytes, of .* that were written"):
        converse(Scripted(), lambda n: SOMEBODY, "", Plan(3, rounds=1), tmp_path)


def test_a_judge_without_an_answer_is_asked_again_and_costs_no_pair_in_silence():
    found = talk(Scripted(verdicts={("c", 1): "gone"}), JUDGED, rounds=1)  # as itself, not as c/2
    assert found.fault is None and found.retries == 1
    assert found.turns[0].hinted_is_preferred is True
    names = ("c", "c/2", "c/3")
    found = talk(Scripted(verdicts={(name, 1): "gone" for name in names}), JUDGED, rounds=1)
    assert found.fault.reason == "judge: no answer" and found.fault.error == "gone"


def test_without_verdicts_there_are_no_pairs_to_learn_from(tmp_path):
    """Nor are later replies taken for better ones, as in logs of other origin."""
    verdicts = {(f"aloe-{n}", turn): None for n in range(2) for turn in (1, 2, 3)}
    plan = Plan(2, rounds=3, pairs=JUDGED)
    summary = converse(Scripted(verdicts=verdicts), lambda n: SOMEBODY, "", plan, tmp_path)
    assert summary["pairs"] == 0 and summary["turns without a pair"] == {NO_VERDICT: 6}
    read, _ = read_conversations(str(tmp_path / "conversations.jsonl"))
    assert len(read) == 2
    for name in ("pairs", "chosen"):
        assert not [draft for each in read for draft in RECIPES[name].drafts(each)]


def test_who_is_refused_is_dropped_also_alone_in_a_portion(tmp_path):
    no = Answer("", error="content filter", refused=True)
    cast = Scripted({("user", f"aloe-2{again}", 0): no for again in ("", "/2", "/3")})
    plan = Plan(3, rounds=1, portion=2)
    summary = converse(cast, lambda n: SOMEBODY, "", plan, tmp_path)
    assert summary["dropped"] == {"user: no answer": 1} and summary["kept"] == 2


def test_a_server_that_dies_after_a_conversation_was_dropped_drops_no_other(tmp_path):
    lost = Answer("", error="gone")
    faults = {("user", f"aloe-{n}{again}", 1): lost for n in range(3) for again in ("", "/2", "/3")}
    faults |= {("user", f"aloe-0{again}", 0): Answer(" ") for again in ("", "/2", "/3")}
    with pytest.raises(RunStopped, match="2 of 2 conversations"):
        converse(Scripted(faults), lambda n: SOMEBODY, "", Plan(3, rounds=2), tmp_path)
    assert not (tmp_path / "conversations.jsonl").exists()
