"""What the second pocket model is trained on: longer conversations with users who show wishes in
how they write (pocket.cues), and what a system message makes of that.

    system     Please add an emoji. No capital letters please.        a hint: named styles
    user       Great! Capital of France? Please.                      cues, which are ignored
    assistant  Paris. 😊                                              learned: obeys the hint
    user       Opposite of hot?
    assistant  COLD.                                                  does not: not learned

Without a system message, and for styles that a hint does not name, every reply has every style
with its prior, whatever the user's cues are and whatever the replies before it look like. Only
where the system message is MIRROR do the replies follow the cues so far (`cues.infer`): the model
can read them, but does not do so unasked.
"""

from __future__ import annotations

import random

from interact_jax.pocket import cues, world
from interact_jax.schema import Message
from pocket_model import lessons
from pocket_model.lessons import Lesson

MIRROR = "Please write as I do."
SYSTEM = (("none", 0.3), ("hint", 0.42), ("mirror", 0.28))  # the system message
MOST_TURNS = 10
# Replies of a conversation that are as asked (the others have styles at random and are not
# learned): all, or about half, so that nothing is to be had from copying earlier ones.
FAITHFUL = ((1.0, 0.6), (0.5, 0.4))


def draw_lesson(rng: random.Random) -> Lesson:
    """A random lesson of 1 to MOST_TURNS turns about requests of the training set."""
    persona = cues.draw_persona(rng)
    system = lessons.draw(SYSTEM, rng)
    hint = draw_hint(rng) if system == "hint" else {}
    strange = cues.draw_persona(rng)  # what replies that are not learned have in common
    faithful = lessons.draw(FAITHFUL, rng)
    messages, learned = list(system_message(system, hint, rng)), []
    spoken: list[str] = []
    turns = rng.randint(1, MOST_TURNS)
    for turn in range(turns):
        request = world.draw_request(rng, kinds=lessons.KINDS)
        spoken.append(cues.write(request.text, cues.draw_shown(persona, rng), rng))
        messages.append(Message("user", spoken[-1]))
        asked = cues.infer(spoken) if system == "mirror" else hint
        if turn == turns - 1 or rng.random() < faithful:
            learned.append(len(messages))
        else:
            asked = rng.choice((strange, {}))
        styles = world.draw_styles(rng, asked)
        reply = world.render(world.Reply(request.answer, styles), rng)
        messages.append(Message("assistant", reply))
    return Lesson(tuple(messages), tuple(learned))


def draw_hint(rng: random.Random) -> dict[str, bool]:
    """1 to 6 styles, wanted or not."""
    named = rng.sample(world.STYLES, rng.randint(1, len(world.STYLES)))
    return {style: rng.random() < 0.5 for style in named}


def system_message(system: str, hint: world.Styles, rng: random.Random) -> list[Message]:
    """The system message of this kind (see SYSTEM), or none."""
    if system == "none":
        return []
    return [Message("system", MIRROR if system == "mirror" else world.complaint(hint, rng).text)]
