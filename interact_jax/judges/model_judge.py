"""A model as a judge: it reads two replies and answers with a letter.

    judge = ModelJudge(LocalChatModel(name, engine, chat), persona="Short answers, please.")

With a persona it judges for a reader who wants just that, and leaves correctness aside, as the
evaluation of arXiv 2603.12273 does; without one it judges which reply helps more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interact_jax.data.chat import ChatFormat
from interact_jax.data.thinking import parts_of
from interact_jax.generation.chat_model import ChatModel
from interact_jax.generation.engine import SamplingParams
from interact_jax.judges.judge import (
    FAILED,
    FIRST,
    NEITHER,
    SECOND,
    UNPARSABLE,
    Comparison,
    Verdict,
)
from interact_jax.judges.store import digest
from interact_jax.schema import Message
from interact_jax.settings import Setting

SETTINGS = {
    "judge_tokens": Setting(8, "tokens of a judge's answer, at most; it is a letter", least=1),
}

ANSWER = (
    "Give your answer as one capital letter and nothing else: A if answer A is better in this "
    "respect, B if answer B is, C if neither is."
)
PERSONA = (
    "You choose between two answers on behalf of a particular reader. This is how the reader wants "
    "to be answered:\n\n{persona}\n\nGo by that wish and nothing else. Whether an answer is right, "
    "and what you would like yourself, plays no part. It makes no difference which answer comes "
    f"first. {ANSWER}"
)
GENERAL = (
    "You choose between two answers to a request. The better one is right, does what was asked for "
    "and is of use to the person who asked. Length is no merit, and it makes no difference which "
    f"answer comes first. {ANSWER}"
)
SPEAKERS = {"system": "Instruction", "user": "User", "assistant": "Assistant", "tool": "Tool"}
BLOCK = "=== {title} ===\n{text}\n=== end of {title} ==="
LETTERS = {"A": FIRST, "B": SECOND, "C": NEITHER}
# The letter alone; marks around it are typography, a word is an answer of another kind.
VERDICT = re.compile(r"[\s\"'`*(\[]*([ABC])[\s\"'`*)\].:]*")


class ModelJudge:
    """Any chat model as a judge; greedy. `clean` is applied to texts that are not ours before the
    model reads them (`break_special_tokens`)."""

    def __init__(
        self,
        model: ChatModel,
        persona: str = "",
        *,
        tokens: int = SETTINGS["judge_tokens"].default,
        settings: Mapping[str, Any] | None = None,
        clean: Callable[[str], str] = str,
    ):
        """`settings` say which model it is beyond its name: a digest of its weights."""
        self.name = model.name
        self._model, self._clean = model, clean
        self._params = SamplingParams(max_new_tokens=tokens, temperature=0.0)
        self._system = PERSONA.replace("{persona}", persona.strip()) if persona else GENERAL
        self.settings = {
            "prompt": digest([self._system, BLOCK, SPEAKERS]),
            "tokens": tokens,
            **(settings or {}),
        }

    def check(self, prompts: Mapping[str, Sequence[Message]]) -> None:
        """It reads anything."""

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        dialogues = [self.dialogue(comparison) for comparison in comparisons]
        # One seed for all: servers draw even at temperature 0, and a verdict is kept without its
        # place among those that were asked for.
        answers = self._model.answer(dialogues, self._params, [0] * len(dialogues))
        return [
            Verdict(FAILED, answer.text, answer.error)
            if answer.error
            else Verdict(parse_answer(answer.text), answer.text)
            for answer in answers
        ]

    def dialogue(self, comparison: Comparison) -> list[Message]:
        """The messages that the model sees."""
        messages = [f"{SPEAKERS[m.role]}: {m.content}" for m in comparison.prompt]
        if len(messages) == 1:
            messages = [comparison.prompt[0].content]
        blocks = {
            "request": "\n\n".join(messages),
            "answer A": comparison.first,
            "answer B": comparison.second,
        }
        # Not format(): replies may hold braces.
        texts = [
            BLOCK.replace("{title}", title).replace("{text}", self._clean(text))
            for title, text in blocks.items()
        ]
        texts.append("Which answer is better: A, B or C (neither)?")
        return [Message("system", self._system), Message("user", "\n\n".join(texts))]

    def measure(
        self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
    ) -> dict[str, float]:
        return {}


def parse_answer(text: str) -> str:
    """FIRST, SECOND or NEITHER for an answer that is A, B or C alone; UNPARSABLE for any other.

    Reasoning before it is left out; where that was cut off, there is no answer.
    """
    parts = parts_of(text)
    match = VERDICT.fullmatch(text if parts is None else parts.answer)
    return LETTERS[match[1]] if match else UNPARSABLE


def break_special_tokens(text: str, chat: ChatFormat) -> str:
    """The text with a space inside everything that the tokenizer would read as a special token: a
    reply that holds one would otherwise end the judge's prompt, or begin a turn in it."""
    while (token := chat.special_token_in(text)) is not None:
        text = text.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else "\ufffd")
    return text
