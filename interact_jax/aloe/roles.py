"""ALOE's roles, played by chat models: of this process or behind endpoints.

    cast = ModelCast(Models(user=big, inducer=big, responder=small, judge=big))
    messages = cast.speak([Scene("c17", persona)])

An answer with an `error` did not come; one without text came, and is of no use.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from interact_jax.aloe import prompts
from interact_jax.aloe.cast import Persona, Scene, Score
from interact_jax.generation.chat_model import Answer, ChatModel
from interact_jax.generation.engine import SamplingParams, seed_of
from interact_jax.judges.judge import FIRST, SECOND
from interact_jax.judges.model_judge import parse_answer
from interact_jax.judges.store import digest
from interact_jax.schema import Message
from interact_jax.settings import Setting

T = TypeVar("T")
SETTINGS = {
    "temperature": Setting(0.8, "of the user, the inducer and the responder", least=0.0),
    "max_new_tokens": Setting(300, "tokens of a message, at most", least=1),
    "judge_tokens": Setting(16, "tokens of a judge's answer, at most; it is one sign", least=1),
}
WORDS = {
    name: getattr(prompts, name)
    for name in (
        *("USER", "FIRST_MESSAGE", "NEXT_MESSAGE", "INDUCER", "INDUCE", "PLAIN", "HINTED"),
        *("ORDER", "WHICH", "SCORE", "GRADE", "BLOCK", "SPEAKERS"),
    )
}


@dataclasses.dataclass(frozen=True)
class Models:
    """Who plays which role; one model may play several."""

    user: ChatModel
    inducer: ChatModel
    responder: ChatModel
    judge: ChatModel


class ModelCast:
    """See `cast.Cast`. The user and the judge know the persona, the inducer and the responder see
    the conversation only. A judge of a pair is asked in both orders."""

    def __init__(
        self,
        models: Models,
        seed: int = 0,
        *,
        temperature: float = SETTINGS["temperature"].default,
        max_new_tokens: int = SETTINGS["max_new_tokens"].default,
        judge_tokens: int = SETTINGS["judge_tokens"].default,
        settings: Mapping[str, Any] = types.MappingProxyType({}),
    ):
        """`settings` say by role which model it is, beyond its name. Raises InputError for sampling
        that is none."""
        self._models, self._seed = models, seed
        self._talk = SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature)
        self._grade = SamplingParams(max_new_tokens=judge_tokens, temperature=0.0)
        self._talk.check()
        self._grade.check()
        names = {
            field.name: getattr(models, field.name).name for field in dataclasses.fields(models)
        }
        self._settings = {
            "models": {role: settings.get(role, name) for role, name in names.items()},
            "seed": seed,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "judge_tokens": judge_tokens,
            "prompts": digest(WORDS),
        }

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._settings

    def speak(self, scenes: Sequence[Scene]) -> list[Answer]:
        """The user's next messages, without actions between asterisks."""
        dialogues = []
        for scene in scenes:
            ask = prompts.FIRST_MESSAGE
            if scene.messages:
                ask = f"{prompts.transcript(scene.messages)}\n\n{prompts.NEXT_MESSAGE}"
            dialogues.append(_told(of(prompts.USER, scene.persona), ask))
        answers = self._ask("user", scenes, dialogues)
        return [_with_text(answer, prompts.without_actions(answer.text)) for answer in answers]

    def infer(self, scenes: Sequence[Scene]) -> list[Answer]:
        """What has shown of the personas; "" for nothing."""
        dialogues = [
            _told(prompts.INDUCER, f"{prompts.transcript(scene.messages)}\n\n{prompts.INDUCE}")
            for scene in scenes
        ]
        answers = self._ask("inducer", scenes, dialogues)
        return [_with_text(answer, prompts.hint_in(answer.text)) for answer in answers]

    def reply(self, scenes: Sequence[Scene], hints: Sequence[str]) -> list[Answer]:
        """Replies with these hints in the system message. The seed does not depend on the hint: two
        replies differ by it alone."""
        dialogues = [
            [
                Message(
                    "system", prompts.fill(prompts.HINTED, hint=hint) if hint else prompts.PLAIN
                ),
                *scene.messages,
            ]
            for scene, hint in zip(scenes, hints, strict=True)
        ]
        return self._ask("responder", scenes, dialogues)

    def order(
        self, scenes: Sequence[Scene], hinted: Sequence[str], plain: Sequence[str]
    ) -> list[bool | str | None]:
        """Whether the judge prefers the hinted reply, whichever it reads first; None where its two
        answers differ, or one is no verdict; the error where one never came."""
        pairs = list(zip(scenes, hinted, plain, strict=True))
        answers = self._judge(
            [_pair(scene, first, second) for scene, first, second in pairs]
            + [_pair(scene, second, first) for scene, first, second in pairs]
        )
        choices = [parse_answer(answer.text) for answer in answers]
        ways = {(FIRST, SECOND): True, (SECOND, FIRST): False}
        errors = [one.error or two.error for one, two in _halves(answers)]
        return [
            error or ways.get(both) for error, both in zip(errors, _halves(choices), strict=True)
        ]

    def score(self, scenes: Sequence[Scene], replies: Sequence[str]) -> list[Score]:
        """Grades by the rubric; the judge sees the last message and the reply to it."""
        answers = self._judge(
            [
                _told(
                    of(prompts.SCORE, scene.persona),
                    *(_last(scene), prompts.block("answer", reply), prompts.GRADE),
                )
                for scene, reply in zip(scenes, replies, strict=True)
            ]
        )
        return [_score(answer) for answer in answers]

    def _ask(
        self, role: str, scenes: Sequence[Scene], dialogues: Sequence[Sequence[Message]]
    ) -> list[Answer]:
        seeds = [seed_of(self._seed, role, scene.id, scene.turn) for scene in scenes]
        model: ChatModel = getattr(self._models, role)
        answers = model.answer(dialogues, self._talk, seeds) if dialogues else []
        return [_with_text(answer, prompts.answer_in(answer.text)) for answer in answers]

    def _judge(self, dialogues: Sequence[Sequence[Message]]) -> list[Answer]:
        # One seed for all: a grade depends on what is graded alone.
        if not dialogues:
            return []
        return self._models.judge.answer(dialogues, self._grade, [0] * len(dialogues))


def of(template: str, persona: Persona) -> str:
    """A prompt that describes the persona."""
    return prompts.fill(template, profile=persona.profile, personality=persona.personality)


def _told(system: str, *texts: str) -> list[Message]:
    return [Message("system", system), Message("user", "\n\n".join(texts))]


def _last(scene: Scene) -> str:
    return prompts.block("message", scene.messages[-1].content)


def _pair(scene: Scene, first: str, second: str) -> list[Message]:
    blocks = (prompts.block("answer A", first), prompts.block("answer B", second))
    return _told(of(prompts.ORDER, scene.persona), _last(scene), *blocks, prompts.WHICH)


def _halves(values: Sequence[T]) -> Iterable[tuple[T, T]]:
    """The first of the one half with the first of the other, and so on."""
    half = len(values) // 2
    return zip(values[:half], values[half:], strict=True)


def _with_text(answer: Answer, text: str) -> Answer:
    """The completion stays where the text is as it was sampled."""
    same = text == answer.text
    return answer if same else dataclasses.replace(answer, text=text, completion=None)


def _score(answer: Answer) -> Score:
    if answer.error:
        return Score(None, error=answer.error)
    grade = prompts.grade_in(prompts.answer_in(answer.text))
    problem = "" if grade is not None else "expected one digit from 1 to 5"
    return Score(grade, answer.text, problem)
