"""All of ALOE's roles in the pocket world: programs, and a model that replies.

    cast = PocketCast(model, seed=0)
    scene = Scene("c0", personas(1, seed=0)[0])
    cast.speak([scene])                   "Great! Capital of France? Please."
    cast.infer([scene after that])        "Please add an exclamation mark. Please be more polite."

Personas want some styles of answering and not others. They never say so; it shows in how they
write (pocket.cues). The cast's judges see which styles a reply has, and whether it is right.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from interact_jax.aloe.cast import SCORES, Persona, Scene, Score
from interact_jax.generation.chat_model import Answer, ChatModel
from interact_jax.generation.engine import SamplingParams, seed_of
from interact_jax.judges.pocket_judge import in_words
from interact_jax.pocket import cues, words, world
from interact_jax.pocket.measure import MAX_NEW_TOKENS
from interact_jax.pocket.reading import read_request
from interact_jax.schema import InputError, Message

SAMPLING = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
TRIES = 4  # samples of a reply until one is not empty


# ----------------------------------------------------------------------------- personas

JOBS = (
    *("nurse", "baker", "teacher", "farmer", "plumber", "pilot", "painter", "lawyer"),
    *("gardener", "cook", "driver", "student", "librarian", "carpenter", "dentist", "musician"),
)
PASTIMES = (
    "plays chess",
    "keeps bees",
    "sings in a choir",
    "repairs old clocks",
    "swims every morning",
    "grows tomatoes",
    "collects stamps",
    "reads crime novels",
    "walks a large dog",
    "paints boats",
)
HELD_OUT_EVERY = 4  # one in this many cities is that of held-out personas
LIKED = {
    "capitals": "capital letters",
    "exclamation": "exclamation marks",
    "sentence": "whole sentences",
    "polite": "polite openings",
    "emoji": "emojis",
    "question": "questions at the end",
}


def personas(count: int, seed: int, held_out: bool = False) -> list[Persona]:
    """So many different personas; their traits are the six styles, each wanted or not. Those held
    out, for a benchmark, live in other cities. Raises InputError if there are not so many."""
    rng = random.Random(seed_of("personas", seed, held_out))
    cities = sorted(words.CAPITALS.values())
    homes = [city for n, city in enumerate(cities) if (n % HELD_OUT_EVERY == 0) == held_out]
    profiles = [(job, home, pastime) for job in JOBS for home in homes for pastime in PASTIMES]
    if count > len(profiles):
        raise InputError(
            f"asked for {count} personas; the pocket world has {len(profiles)} "
            f"{'held out' if held_out else 'to train on'}."
        )
    return [
        _persona(f"A {job} from {home} who {pastime}.", cues.draw_persona(rng))
        for job, home, pastime in rng.sample(profiles, count)
    ]


def _persona(profile: str, traits: Mapping[str, bool]) -> Persona:
    liked, disliked = (
        [name for style, name in LIKED.items() if traits[style] == on] for on in (True, False)
    )
    parts = (("Likes", liked), ("Dislikes", disliked))
    personality = [f"{verb} {_listed(names)} in answers." for verb, names in parts if names]
    return Persona(profile, " ".join(personality), traits)


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


# ---------------------------------------------------------------------------- the roles


@dataclasses.dataclass
class PocketCast:
    """A Cast. `model` writes the replies; it gets a hint as the system message. `weights` says
    which weights it has, where its name does not. `held_out`: users make held-out requests, as in a
    benchmark, whose models under test reply in place of one of the cast."""

    model: ChatModel | None = None
    seed: int = 0
    held_out: bool = False
    weights: str = ""
    sampling: SamplingParams = SAMPLING

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "cast": "pocket",
            "model": self.model.name if self.model else "",
            "weights": self.weights,
            "sampling": dataclasses.asdict(self.sampling),
            "held_out": self.held_out,
            "cues": {"shown": cues.SHOWN, "unwanted": cues.UNWANTED},
        }

    def speak(self, scenes: Sequence[Scene]) -> list[Answer]:
        """A request, written as the persona would."""
        return [Answer(self._speak(scene)) for scene in scenes]

    def _speak(self, scene: Scene) -> str:
        rng = random.Random(seed_of(self.seed, "speak", scene.id, scene.turn + 1))
        request = world.draw_request(rng, self.held_out)
        return cues.write(request.text, cues.draw_shown(_wishes(scene), rng), rng)

    def infer(self, scenes: Sequence[Scene]) -> list[Answer]:
        """What has shown, in the world's own words; "" where nothing has."""
        spoken = [[m.content for m in s.messages if m.role == "user"] for s in scenes]
        return [Answer(in_words(cues.infer(messages))) for messages in spoken]

    def reply(self, scenes: Sequence[Scene], hints: Sequence[str]) -> list[Answer]:
        """The model's replies. One that is empty is sampled again, up to TRIES times in all."""
        assert self.model is not None, "a cast that replies has a model"
        answers = [Answer("")] * len(scenes)
        waiting = list(range(len(scenes)))
        for number in range(TRIES):
            if not waiting:
                break
            dialogues = [_dialogue(scenes[n], hints[n]) for n in waiting]
            seeds = [
                seed_of(self.seed, "reply", number, scenes[n].id, scenes[n].turn, hints[n])
                for n in waiting
            ]
            given = self.model.answer(dialogues, self.sampling, seeds)
            for n, answer in zip(waiting, given, strict=True):
                answers[n] = answer
            waiting = [n for n in waiting if not (answers[n].text.strip() or answers[n].error)]
        for n in waiting:
            answers[n] = Answer("", error=f"{TRIES} empty replies", refused=True)
        return answers

    def order(
        self, scenes: Sequence[Scene], hinted: Sequence[str], plain: Sequence[str]
    ) -> list[bool | str | None]:
        """A right reply is preferred to a wrong one, and of two right ones the one that meets more
        wishes. Two wrong ones are none to learn from: no verdict, as for equal ones."""
        verdicts: list[bool | str | None] = []
        for scene, *texts in zip(scenes, hinted, plain, strict=True):
            first, second = (
                met if right else -1 for met, right in (_mark(scene, text) for text in texts)
            )
            verdicts.append(None if first == second else first > second)
        return verdicts

    def score(self, scenes: Sequence[Scene], replies: Sequence[str]) -> list[Score]:
        """From 1, no wish met or not to be read, to 5, all six met."""
        return [_score(*_mark(*pair)) for pair in zip(scenes, replies, strict=True)]


def _dialogue(scene: Scene, hint: str) -> list[Message]:
    return [*([Message("system", hint)] if hint else []), *scene.messages]


def _wishes(scene: Scene) -> dict[str, bool]:
    traits = scene.persona.traits
    if set(traits) != set(world.STYLES):
        raise InputError(
            f"conversation {scene.id}: the persona has the traits {sorted(traits)}; in the pocket "
            f"world it wants or does not want {', '.join(world.STYLES)}. Take "
            "pocket_cast.personas, or another cast."
        )
    return {style: bool(traits[style]) for style in world.STYLES}


def _request(scene: Scene) -> world.Request:
    """What the user asks in the last message. Raises InputError."""
    last = scene.messages[-1].content if scene.messages else ""
    if (request := read_request(cues.read(last)[0])) is None:
        raise InputError(
            f"conversation {scene.id}: {last!r} is no request of the pocket world, so its checkers "
            "cannot judge replies to it. Take another cast."
        )
    return request


def _mark(scene: Scene, text: str) -> tuple[int, bool]:
    """(wishes met, right): the greater, the better. (-1, False): cannot be read."""
    request, wishes = _request(scene), _wishes(scene)
    if (reply := world.parse(text)) is None:
        return (-1, False)
    met = sum(reply.styles[style] == on for style, on in wishes.items())
    return (met, reply.answer == request.answer)


def _score(met: int, right: bool) -> Score:
    if met < 0:
        return Score(float(SCORES[0]), "unreadable", correct=False)
    value = SCORES[0] + (SCORES[-1] - SCORES[0]) * met / len(world.STYLES)
    said = f"{met} of {len(world.STYLES)} wishes, {'right' if right else 'wrong'}"
    return Score(value, said, correct=right)
