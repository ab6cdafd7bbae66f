"""What a persona shows in its messages is read back exactly."""

import itertools
import random
import statistics

import pytest

from interact_jax.pocket import cues, words, world
from interact_jax.pocket.reading import read_request

SETS = [
    {s for s, on in zip(world.STYLES, shown, strict=True) if on}
    for shown in itertools.product((False, True), repeat=len(world.STYLES))
]


def test_every_message_is_read_back():
    rng = random.Random(0)
    texts = set()
    for shown in SETS * 8:
        request = world.draw_request(rng)
        text = cues.write(request.text, shown, rng)
        assert cues.read(text) == (request.text, shown)
        assert read_request(cues.read(text)[0]) == request
        texts.add(text.replace(request.text, "R"))
    used = "".join(texts)
    assert all(text in used for text in itertools.chain(cues.GREETINGS, *cues.ENDINGS.values()))


def test_nothing_is_read_from_messages_without_cues():
    rng = random.Random(1)
    plain = [world.draw_request(rng, held_out=on).text for on in (True, False) for _ in range(300)]
    spoken = [
        text for wishes in words.COMPLAINTS.values() for both in wishes.values() for text in both
    ]
    for text in ["", "a\nb", *plain, *spoken, *words.PRAISE, *words.CHATTER]:
        assert cues.read(text) == (text, frozenset())


def test_messages_depend_on_the_random_numbers_alone():
    first, second = (
        [cues.write("Capital of Peru?", shown, random.Random(7)) for shown in SETS] for _ in "12"
    )
    assert first == second and len(set(first)) == len(SETS)


def test_wanted_styles_show_as_often_as_said_and_unwanted_ones_never():
    rng = random.Random(2)
    persona = {style: style in ("emoji", "polite") for style in world.STYLES}
    shown = [cues.draw_shown(persona, rng) for _ in range(4000)]
    for style, wanted in persona.items():
        share = statistics.mean(style in one for one in shown)
        assert share == pytest.approx(cues.SHOWN * wanted, abs=0.025)
    together = statistics.mean({"emoji", "polite"} <= one for one in shown)
    assert together == pytest.approx(cues.SHOWN**2, abs=0.015)


def test_personas_want_half_of_the_styles():
    rng = random.Random(3)
    personas = [cues.draw_persona(rng) for _ in range(2000)]
    for style in world.STYLES:
        assert statistics.mean(p[style] for p in personas) == pytest.approx(0.5, abs=0.04)


def test_what_has_shown_is_wanted_and_what_never_does_is_not():
    plain, polite = "Capital of Peru?", "Capital of Peru? Please."
    assert cues.infer([]) == {}
    assert cues.infer([polite]) == {"polite": True}
    assert cues.infer([polite, plain, "Hi! Capital of Peru?"]) == {
        "exclamation": True,
        "polite": True,
    }
    # 0.75^4 / (1 + 0.75^4) = 0.24, and with one message more 0.19.
    assert cues.infer([plain] * 3 + [polite]) == {"polite": True}
    assert cues.infer([plain] * 4 + [polite]) == {s: s == "polite" for s in world.STYLES}


def test_inference_is_right_about_most_personas_after_ten_messages():
    rng = random.Random(4)
    right, known = [], []
    for _ in range(500):
        persona = cues.draw_persona(rng)
        spoken = [cues.write("R?", cues.draw_shown(persona, rng), rng) for _ in range(10)]
        inferred = cues.infer(spoken)
        known.append(len(inferred))
        right += [persona[style] == on for style, on in inferred.items()]
    assert statistics.mean(known) == len(world.STYLES)
    missed = 0.5 * (1 - cues.SHOWN) ** 10
    assert statistics.mean(right) == pytest.approx(1 - missed, abs=0.015)
