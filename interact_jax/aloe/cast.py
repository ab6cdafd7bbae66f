"""Who takes part in ALOE: a persona plays the user, others infer, reply and judge.

    scene = Scene("c17", persona, messages)          a conversation so far
    cast.speak([scene])     the persona's next message
    cast.infer([scene])     what of the persona has shown in the messages so far
    cast.reply([scene], [hint])                      a reply, with that as a hint; "" = without
    cast.order([scene], [hinted], [plain])           which of two replies the persona prefers
    cast.score([scene], [reply])                     how well a reply fits the persona, 1 to 5

Everything is asked for many scenes at a time and answered in their order. What a role says depends
on the scene, the seed and the cast's settings alone, so that a killed program makes the same again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from interact_jax.generation.chat_model import Answer
from interact_jax.schema import Message

SCORES = (1, 2, 3, 4, 5)  # of the paper's benchmark: 1 does not fit the persona, 5 fits it fully


@dataclasses.dataclass(frozen=True)
class Persona:
    """Somebody who talks: a profile (who they are) and a personality (how they are). `traits` are
    the same for programs, where a world has checkers: the styles that the person wants."""

    profile: str
    personality: str
    traits: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A conversation so far. It ends with an assistant's message, or is empty, where the user is
    to speak, and with the user's everywhere else."""

    id: str
    persona: Persona
    messages: tuple[Message, ...] = ()

    @property
    def turn(self) -> int:
        """The number of the user's last message: 1 for the first, 0 before it."""
        return sum(message.role == "user" for message in self.messages)


@dataclasses.dataclass(frozen=True)
class Score:
    """One of SCORES, or None with what was wrong: the judge's answer could not be read, or there
    was none. `answer` has the judge's words. A world with checkers gives any number from 1 to 5,
    and says in `correct` whether the content is right."""

    value: float | None
    answer: str = ""
    error: str = ""
    correct: bool | None = None


class Cast(Protocol):
    """All roles. `settings` is JSON that holds everything their words depend on, beside scene and
    seed: the names of models, digests of weights and prompts."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def speak(self, scenes: Sequence[Scene]) -> list[Answer]: ...

    def infer(self, scenes: Sequence[Scene]) -> list[Answer]: ...

    def reply(self, scenes: Sequence[Scene], hints: Sequence[str]) -> list[Answer]: ...

    def order(
        self, scenes: Sequence[Scene], hinted: Sequence[str], plain: Sequence[str]
    ) -> list[bool | str | None]:
        """Whether the hinted reply is preferred; None where the judge's answer is no verdict, and
        where there was no answer, the error."""
        ...

    def score(self, scenes: Sequence[Scene], replies: Sequence[str]) -> list[Score]: ...
