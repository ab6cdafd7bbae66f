"""Rounds of ALOE's conversations: a message of the user, what has shown of them, two replies.

    talks = [Talk("aloe-0", persona), ...]
    for _ in range(10):
        play(cast, talks, "paper", seed=0)

All conversations are played in step, so that every role is asked for many at a time. A round that
fails is played again; a conversation whose round cannot be played is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from interact_jax.aloe.cast import Cast, Persona, Scene
from interact_jax.generation.chat_model import Answer
from interact_jax.generation.engine import seed_of
from interact_jax.schema import Message

PAPER, JUDGED = "paper", "judged"
WAYS = (PAPER, JUDGED)
# A round is played once and three times again: first with the same seeds, as answers that were lost
# on their way may come now and the others need not be asked for again; then with others.
TRIES = ("", "", "/2", "/3")
NO_ANSWER, NO_TEXT = "no answer", "an empty answer"
SAME, NO_VERDICT = "equal replies", "no verdict"


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a round could not be played: whose answer (a role) is missing or of no use, and what the
    error was. `lost`: the answer never came, but may another time; `refused`: it never will."""

    role: str
    kind: str
    error: str = ""
    refused: bool = False

    @property
    def reason(self) -> str:
        return f"{self.role}: {self.kind}"

    @property
    def lost(self) -> bool:
        return self.kind == NO_ANSWER and not self.refused


@dataclasses.dataclass(frozen=True)
class Turn:
    """A round. `hinted_is_preferred` is None where the two replies make no pair, and `no_pair` says
    why. `hinted_continues`: that reply is the one that the next round sees."""

    user: Message
    inferred: str
    hinted: str
    plain: str
    hinted_is_preferred: bool | None
    hinted_continues: bool
    no_pair: str = ""

    @property
    def reply(self) -> Message:
        """The reply that the next round sees."""
        return Message("assistant", self.hinted if self.hinted_continues else self.plain)

    @property
    def alternative(self) -> str:
        return self.plain if self.hinted_continues else self.hinted


@dataclasses.dataclass
class Talk:
    """A conversation under way; `fault` is why it was dropped, `retries` counts rounds that were
    played again."""

    id: str
    persona: Persona
    turns: list[Turn] = dataclasses.field(default_factory=list)
    fault: Fault | None = None
    retries: int = 0

    def scene(self, attempt: str = "") -> Scene:
        messages = [message for turn in self.turns for message in (turn.user, turn.reply)]
        return Scene(f"{self.id}{attempt}", self.persona, tuple(messages))


def play(cast: Cast, talks: Sequence[Talk], pairs: str, seed: int) -> None:
    """Add a round to every conversation, or the fault for which it is dropped."""
    waiting, faults = list(talks), dict[str, Fault]()
    for number, attempt in enumerate(TRIES):
        outcomes = play_once(cast, [talk.scene(attempt) for talk in waiting], pairs)
        again = []
        for talk, outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, Fault):
                faults[talk.id] = outcome
                again.append(talk)
                continue
            talk.retries += number > 0
            continues = seed_of(seed, "continues", talk.id, len(talk.turns)) % 2 == 0
            talk.turns.append(dataclasses.replace(outcome, hinted_continues=continues))
        waiting = again
        if not waiting:
            return
    for talk in waiting:
        talk.fault = faults[talk.id]


def play_once(cast: Cast, scenes: Sequence[Scene], pairs: str) -> list[Turn | Fault]:
    """One try of a round in every scene; the hinted reply stands as the one that continues."""
    found: list[Turn | Fault | None] = [None] * len(scenes)
    places = list(range(len(scenes)))

    said = _usable(found, "user", places, cast.speak(scenes))
    heard = {
        place: dataclasses.replace(
            scenes[place],
            messages=(*scenes[place].messages, Message("user", said[place])),
        )
        for place in said
    }
    noted = _usable(found, "inducer", list(heard), cast.infer(list(heard.values())), empty=True)
    ready = {place: heard[place] for place in noted}
    answers = cast.reply([*ready.values()] * 2, [*noted.values()] + [""] * len(ready))
    hinted = _usable(found, "responder", list(ready), answers[: len(ready)])
    plain = _usable(found, "responder", list(ready), answers[len(ready) :])
    whole = {place: ready[place] for place in ready if place in hinted and place in plain}
    prefers = _preferences(cast, whole, hinted, plain, pairs)
    for place, scene in whole.items():
        outcome = prefers[place]
        if isinstance(outcome, Fault):
            found[place] = outcome
            continue
        preferred, no_pair = outcome
        found[place] = Turn(
            scene.messages[-1],
            noted[place],
            hinted[place],
            plain[place],
            hinted_is_preferred=preferred,
            hinted_continues=True,
            no_pair=no_pair,
        )
    return [outcome for outcome in found if outcome is not None]


def _usable(
    found: list[Turn | Fault | None],
    role: str,
    places: Sequence[int],
    answers: Sequence[Answer],
    empty: bool = False,
) -> dict[int, str]:
    """The texts by place of answers that can be used; the others become faults. `empty`: an answer
    may be so."""
    texts = {}
    for place, answer in zip(places, answers, strict=True):
        if answer.error:
            found[place] = Fault(role, NO_ANSWER, answer.error, answer.refused)
        elif not answer.text.strip() and not empty:
            found[place] = Fault(role, NO_TEXT)
        else:
            texts[place] = answer.text
    return texts


def _preferences(
    cast: Cast,
    scenes: Mapping[int, Scene],
    hinted: Mapping[int, str],
    plain: Mapping[int, str],
    pairs: str,
) -> dict[int, tuple[bool | None, str] | Fault]:
    """By place: whether the hinted reply is preferred, or why there is no pair; a fault where the
    judge did not answer."""
    prefers: dict[int, tuple[bool | None, str] | Fault] = {
        place: (None, SAME) if hinted[place] == plain[place] else (True, "") for place in scenes
    }
    if pairs == PAPER:
        return prefers
    asked = [place for place in scenes if hinted[place] != plain[place]]
    verdicts = cast.order(
        [scenes[place] for place in asked],
        [hinted[place] for place in asked],
        [plain[place] for place in asked],
    )
    for place, verdict in zip(asked, verdicts, strict=True):
        if isinstance(verdict, str):
            prefers[place] = Fault("judge", NO_ANSWER, verdict)
        else:
            prefers[place] = (verdict, "" if verdict is not None else NO_VERDICT)
    return prefers
