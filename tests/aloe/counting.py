"""A small world whose figures are known: a persona likes a number, and shows it more and more.

The user asks for a number and, from the second turn on, says how far off the last one was, if it
has courage. The judge scores by the distance, 5 for none. A learner does as it is told, a stubborn
model repeats itself.
"""

from __future__ import annotations

import re

from interact_jax.aloe.cast import Persona, Score
from interact_jax.generation.chat_model import Answer
from interact_jax.generation.engine import seed_of

STEPS = 3


def personas(count):
    return [
        Persona(f"Person {n}", f"likes {n % 7 + 4}", {"likes": n % 7 + 4}) for n in range(count)
    ]


class CountingCast:
    """A Cast. `silent` are (persona's profile, turn) at which the user says nothing, `mumbling`
    those at which the judge cannot be read, `gone` those at which it does not answer, or the user
    fails. It counts how many scenes it was asked about."""

    def __init__(self, seed=0, silent=(), mumbling=(), gone=(), lost=()):
        self.seed, self.silent, self.mumbling = seed, set(silent), set(mumbling)
        self.gone, self.lost = set(gone), set(lost)
        self.asked = {"speak": 0, "score": 0}
        self.settings = {"world": "counting"}

    def speak(self, scenes):
        self.asked["speak"] += len(scenes)
        return [self._say(scene) for scene in scenes]

    def _say(self, scene):
        place = (scene.persona.profile, scene.turn + 1)
        if place in self.silent:
            return Answer("")
        if place in self.lost:
            return Answer("", error="the line is dead")
        greeting = ("Hello", "Hi", "Well")[seed_of(self.seed, scene.id, scene.turn) % 3]
        if not scene.messages:
            return Answer(f"{greeting}, give me a number.")
        off = scene.persona.traits["likes"] - _number(scene.messages[-1].content)
        return Answer(f"{greeting}, add {off}.")

    def infer(self, scenes):
        raise AssertionError("the benchmark gives no hints")

    reply = order = infer

    def score(self, scenes, replies):
        self.asked["score"] += len(scenes)
        return [self._score(*each) for each in zip(scenes, replies, strict=True)]

    def _score(self, scene, reply):
        place = (scene.persona.profile, scene.turn)
        if place in self.gone:
            return Score(None, error="the judge is ill")
        if place in self.mumbling:
            return Score(None, answer="rather good", error="expected one digit from 1 to 5")
        off = abs(scene.persona.traits["likes"] - _number(reply))
        return Score(float(max(1, 5 - off)), answer=str(max(1, 5 - off)), correct=off < 10)


def _number(text):
    return int(re.findall(r"-?\d+", text)[-1])


class Learner:
    """A chat model that adds what it is told to, at most STEPS at a time, to a number that begins
    at 0. `dies` is after how many calls it raises KeyboardInterrupt."""

    name = "learner"

    def __init__(self, stubborn=False, broken=(), dies=None):
        self.stubborn, self.broken, self.dies = stubborn, set(broken), dies
        self.asked, self.calls, self.seeds = 0, 0, []

    def answer(self, dialogues, params, seeds=None):
        if self.calls == self.dies:
            raise KeyboardInterrupt
        self.calls += 1
        self.asked += len(dialogues)
        self.seeds += list(seeds)
        return [self._reply(dialogue) for dialogue in dialogues]

    def _reply(self, dialogue):
        if sum(message.role == "user" for message in dialogue) in self.broken:
            return Answer("", error="no room left", refused=True)
        before = [message for message in dialogue if message.role == "assistant"]
        number = _number(before[-1].content) if before else 0
        told = re.search(r"add (-?\d+)", dialogue[-1].content)
        if told and not self.stubborn:
            number += max(-STEPS, min(STEPS, int(told[1])))
        return Answer(f"<think>\nHm.\n</think>\n\nTake {number}.")
