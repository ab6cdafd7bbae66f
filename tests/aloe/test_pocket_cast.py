"""The roles of ALOE as the pocket world plays them."""

import dataclasses
import json
import random
import statistics

import pytest

from interact_jax.aloe.cast import Persona, Scene
from interact_jax.aloe.pocket_cast import PocketCast, personas
from interact_jax.generation.chat_model import Answer
from interact_jax.pocket import cues, words, world
from interact_jax.pocket.reading import read_request
from interact_jax.schema import InputError, Message

TRAITS = {style: style in ("emoji", "polite", "sentence") for style in world.STYLES}
PERSONA = Persona("A baker from Rome who plays chess.", "Likes emojis in answers.", TRAITS)


class Program:
    """A chat model that obeys hints; the other styles are at their prior. `empty`: how many
    samples of every reply are empty first."""

    name = "program"

    def __init__(self, empty=0):
        self.empty = empty
        self.asked = []

    def answer(self, dialogues, params, seeds=None):
        self.asked.append(list(zip(dialogues, seeds, strict=True)))
        if len(self.asked) <= self.empty:
            return [Answer("") for _ in dialogues]
        return [Answer(self._answer(d, s)) for d, s in zip(dialogues, seeds, strict=True)]

    def _answer(self, dialogue, seed):
        rng = random.Random(seed)
        hint = dialogue[0].content if dialogue[0].role == "system" else ""
        asked = {
            style: on
            for style, both in words.COMPLAINTS.items()
            for on in both
            if both[on][0] in hint
        }
        request = read_request(cues.read(dialogue[-1].content)[0])
        return world.render(world.Reply(request.answer, world.draw_styles(rng, asked)), rng)


def scene_of(*spoken, traits=TRAITS):
    messages = []
    for text in spoken:
        messages += [Message("user", text), Message("assistant", "Lima.")]
    return Scene("c", dataclasses.replace(PERSONA, traits=traits), tuple(messages[:-1]))


def styled(text="Lima", **on):
    styles = dict.fromkeys(world.STYLES, False) | on
    return world.render(world.Reply(text, styles), random.Random(0))


def talk(cast, scene, hinted, turns=10):
    """The conversation, and the score of every reply."""
    scores = []
    for _ in range(turns):
        (spoken,) = cast.speak([scene])
        scene = dataclasses.replace(scene, messages=(*scene.messages, Message("user", spoken.text)))
        (hint,) = cast.infer([scene])
        (reply,) = cast.reply([scene], [hint.text if hinted else ""])
        scores += cast.score([scene], [reply.text])
        replied = (*scene.messages, Message("assistant", reply.text))
        scene = dataclasses.replace(scene, messages=replied)
    return scene, scores


def test_messages_are_requests_with_the_cues_of_the_persona():
    for held_out in (False, True):
        cast = PocketCast(Program(), held_out=held_out)
        scenes = [Scene(f"c{n}", PERSONA) for n in range(100)]
        texts = [answer.text for answer in cast.speak(scenes)]
        shown = set()
        for text in texts:
            request, seen = cues.read(text)
            assert read_request(request).held_out == held_out
            shown |= seen
        assert shown == {style for style, on in TRAITS.items() if on}
        assert len(set(texts)) > 90
        assert texts == [answer.text for answer in cast.speak(scenes)]
        assert texts[7:9] == [answer.text for answer in cast.speak(scenes[7:9])]
        other = dataclasses.replace(cast, seed=1)
        assert texts != [answer.text for answer in other.speak(scenes)]


def test_the_hint_is_what_has_shown_so_far():
    cast = PocketCast(Program())
    plain, emoji = "Capital of Peru?", "Capital of Peru? 😊"
    silent, one, all_six = cast.infer(
        [scene_of(plain), scene_of(emoji, plain), scene_of(emoji, *[plain] * 4)]
    )
    assert silent.text == ""
    assert one.text == "Please add an emoji."
    assert all_six.text.startswith("Please do not write in capital letters. Please leave out")
    assert "Please add an emoji." in all_six.text


def test_the_hint_is_the_system_message_of_the_model_that_replies():
    program = Program()
    cast = PocketCast(program)
    scene = scene_of("Capital of Peru? 😊", "Opposite of hot?")
    hinted, plain = cast.reply([scene, scene], ["Please add an emoji.", ""])
    ((first, seed), (second, other)) = program.asked[0]
    assert first == [Message("system", "Please add an emoji."), *scene.messages]
    assert tuple(second) == scene.messages and seed != other
    assert world.parse(hinted.text).styles["emoji"]
    assert cast.reply([scene], [""]) == [plain]


def test_an_empty_reply_is_sampled_again_and_at_last_an_error():
    scene = scene_of("Opposite of hot?")
    program = Program(empty=2)
    (answer,) = PocketCast(program).reply([scene], [""])
    assert world.parse(answer.text).answer == "cold"
    assert len({asked[0][1] for asked in program.asked}) == 3
    (answer,) = PocketCast(Program(empty=4)).reply([scene], [""])
    assert answer.error == "4 empty replies"


def test_a_right_reply_wins_and_of_two_that_which_meets_more_wishes():
    cast = PocketCast(Program())
    scene = scene_of("Capital of Peru?")
    emoji, both, wrong = styled(emoji=True), styled(emoji=True, polite=True), styled("Rome")
    pairs = [(both, emoji), (emoji, both), (styled(), wrong), (wrong, styled()), (emoji, emoji)]
    pairs += [("Hm", wrong), ("Hm", "So"), (styled("Rome", emoji=True), wrong), (styled(), "Hm")]
    verdicts = cast.order([scene] * len(pairs), *zip(*pairs, strict=True))
    assert verdicts == [True, False, True, False, None, None, None, None, True]


def test_scores_count_the_wishes_met():
    cast = PocketCast(Program())
    scene = scene_of("Please add an emoji.", "Hi! Capital of Peru?")
    texts = [styled(), styled("Rome", emoji=True, polite=True, sentence=True), "Hm"]
    none, all_met, unreadable = cast.score([scene] * 3, texts)
    assert (none.value, none.correct) == (3, True)  # the three that are not wanted
    assert (all_met.value, all_met.correct) == (5, False)
    assert (unreadable.value, unreadable.correct) == (1, False)
    worst = {style: not on for style, on in TRAITS.items()}
    assert cast.score([scene], [styled(**worst)])[0].value == 1


def test_hinted_replies_fit_better_from_turn_to_turn_and_plain_ones_do_not():
    means = {}
    for hinted in (True, False):
        cast = PocketCast(Program())
        people = enumerate(personas(60, seed=0))
        scores = [talk(cast, Scene(f"c{n}", one), hinted)[1] for n, one in people]
        means[hinted] = [
            statistics.mean(s.value for s in turn) for turn in zip(*scores, strict=True)
        ]
    assert all(value == pytest.approx(3, abs=0.3) for value in means[False])
    assert means[True][0] == pytest.approx(3.3, abs=0.3) and means[True][-1] > 4.7
    assert means[True][0] < means[True][3] < means[True][9]


def test_personas_are_different_and_those_held_out_live_elsewhere():
    trained, held_out = personas(500, seed=0), personas(500, seed=0, held_out=True)
    texts = [(p.profile, p.personality) for p in (*trained, *held_out)]
    assert len({profile for profile, _ in texts}) == 1000
    assert personas(500, seed=0) == trained != personas(500, seed=1)
    for one in trained:
        wanted = one.personality.split("Dislikes")[0]
        assert ("emojis" in wanted) == one.traits["emoji"]
    with pytest.raises(InputError, match=r"960 held out"):
        personas(961, seed=0, held_out=True)


def test_people_of_another_world_are_refused():
    cast = PocketCast(Program())
    stranger = Scene("c3", Persona("A sailor.", "Shy."))
    with pytest.raises(InputError, match="conversation c3: the persona has the traits"):
        cast.speak([stranger])
    with pytest.raises(InputError, match=r"'Hello' is no request of the pocket world"):
        cast.score([scene_of("Hello")], ["Lima."])


def test_settings_tell_casts_apart():
    casts = [
        PocketCast(Program()),
        PocketCast(Program(), held_out=True),
        PocketCast(Program(), weights="a1"),
    ]
    texts = {json.dumps(cast.settings, sort_keys=True) for cast in casts}
    assert len(texts) == 3
