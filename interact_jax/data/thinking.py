"""What a reply was reasoned by: found in logs, and written as a chat template has it.

    {"content": "<think>\\nTwo and two.\\n</think>\\n\\nFour."}                        in its text
    {"content": "Four.", "reasoning_content": "Two and two."}                       beside it

A template may take reasoning beside the text or in it, show it in the history or not; its
generation prompt may open the block, close an empty one, or leave it to the model. No template is
known here by its name: it is tried.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from interact_jax.data.templates import ChatTemplate, Refusal

THINKING = ("auto", "off", "strip", "keep")
KEY = "reasoning_content"  # of `Message.fields`
KEYS = (KEY, "reasoning", "thinking")
"""Under which templates take reasoning beside the text."""
MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
)
"""Between which it stands in the text of a log. How a template writes it is tried."""
_ALONE = re.compile(rf"^(?:{'|'.join(re.escape(close) for _, close in MARKS)})[ \t]*$", re.M)

# Kinds of prompt: as for any reply, with room for reasoning, behind a block that is closed.
PLAIN, ON, CLOSED = "plain", "on", "closed"

# What becomes of reasoning; the values are for the summary of a data set.
KEPT = "replies with reasoning: learned with it, their prompts rendered with thinking on"
ASKED_OUT = "replies with reasoning: learned without it, as data.thinking says"
UNABLE = "replies with reasoning: learned without it, the chat template leaves no room for it"
EMPTY = "replies with an empty block of reasoning: learned without it"
NO_BLOCK = "replies without reasoning, behind a prompt that opens a block of it"
NOTES = {
    KEPT: "thinking on",
    ASKED_OUT: "thinking off, reasoning left out",
    UNABLE: "thinking off, reasoning left out",
    EMPTY: "thinking off, an empty block left out",
    NO_BLOCK: "no reasoning, but the prompt opens a block of it",
}
"""The same of one reply, in a picture of it."""
NO_ANSWER = "interactions left out: a reply is nothing without its reasoning"
OTHER_IDS = "replies with reasoning: token_ids not used, they do not go with the prompt"


@dataclasses.dataclass(frozen=True)
class Parts:
    """A reply taken apart. `open` is reasoning that was cut off: nothing came behind it."""

    reasoning: str
    answer: str
    open: bool = False


def parts_of(text: str, fields: Mapping[str, Any] | None = None) -> Parts | None:
    """Reasoning and answer of a reply; None where there is no sign of reasoning.

    A block stands at the beginning of the text. Where the prompt had opened it, a log has but its
    end, on a line of its own.
    """
    within = _within(text)
    beside = (fields or {}).get(KEY)
    beside = beside.strip() if isinstance(beside, str) else ""
    if within is None:
        return Parts(beside, text) if beside else None
    both = [part for part in dict.fromkeys((beside, within.reasoning)) if part]
    return dataclasses.replace(within, reasoning="\n\n".join(both))


def _within(text: str) -> Parts | None:
    body = text.lstrip()
    for opening, closing in MARKS:
        if body.startswith(opening):
            reasoning, found, answer = body.removeprefix(opening).partition(closing)
            return Parts(reasoning.strip(), answer.lstrip(), open=not found)
    if not any(closing in text for _, closing in MARKS):  # nearly all: no search line by line
        return None
    if (end := _ALONE.search(text)) and not any(mark in text[: end.start()] for mark, _ in MARKS):
        return Parts(text[: end.start()].strip(), text[end.end() :].lstrip())
    return None


@dataclasses.dataclass(frozen=True)
class Thinking:
    """What a template makes of reasoning.

    `able`: its prompts can leave room for it. `key` is the field that it takes it under, "" where
    it wants it in the text. A reply is `before`, reasoning, `between`, answer; `before` is empty
    where the prompt has opened the block. `opening` and `closing` are the marks.
    """

    able: bool = False
    key: str = ""
    before: str = "<think>\n"
    between: str = "\n</think>\n\n"
    opening: str = "<think>"
    closing: str = "</think>"

    def written(self, parts: Parts) -> str:
        """What the model says behind a prompt with thinking on."""
        if parts.open:
            return self.before + parts.reasoning
        return f"{self.before}{parts.reasoning}{self.between}{parts.answer}"

    def row(self, row: dict[str, Any], parts: Parts) -> dict[str, Any]:
        """A message of the history with its reasoning, as the template takes it."""
        row = {name: value for name, value in row.items() if name != KEY}
        if self.key:
            return {**row, "content": parts.answer, self.key: parts.reasoning}
        end = "" if parts.open else f"\n{self.closing}\n\n{parts.answer}"
        return {**row, "content": f"{self.opening}\n{parts.reasoning}{end}"}

    def opens(self, prompt: str) -> bool:
        """Whether a prompt ends with a block that is open."""
        return prompt.rstrip().endswith(self.opening)

    def closes(self, prompt: str) -> bool:
        """Whether a prompt ends with a block that is closed."""
        return prompt.rstrip().endswith(self.closing)


def opens_a_block(prompt: str) -> bool:
    """Whether a prompt ends with an open block of MARKS, without asking its template."""
    return prompt.rstrip().endswith(tuple(opening for opening, _ in MARKS))


def without(row: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """A message of the history without its reasoning."""
    kept = {name: value for name, value in row.items() if name != KEY}
    return {**kept, "content": parts.answer}


# Words that no template has of its own.
_REASONS, _ANSWER = "zqreasonsqz", "zqanswerqz"
_USER = {"role": "user", "content": "Hi"}


def thinking_of(template: ChatTemplate) -> Thinking:
    """Of a template, which is asked a handful of questions."""

    def shown(rows: Sequence[Mapping[str, Any]], finished: bool = False) -> str:
        try:
            return template.render(rows, thinking=True, finished=finished)
        except Refusal:
            return ""

    def takes(key: str) -> bool:
        reply = {"role": "assistant", "content": _ANSWER, key: _REASONS}
        return _REASONS in shown([_USER, reply], True) + shown([_USER, reply, _USER])

    def form(content: str, **fields: str) -> tuple[str, str]:
        """What stands before the reasoning of a reply, and between it and the answer."""
        said = shown([_USER, {"role": "assistant", "content": content, **fields}], True)
        before, found, rest = said.removeprefix(prompt).partition(_REASONS)
        between, answered, _ = rest.partition(_ANSWER)
        known = said.startswith(prompt) and found and answered
        return (before, between) if known else ("", "")

    prompt = shown([_USER])
    if not prompt:
        return Thinking()
    key = next(filter(takes, KEYS), "")
    before, between = form(_ANSWER, **{key: _REASONS}) if key else ("", "")
    if not between.strip():  # not beside the text; if in it, then between marks that it knows
        marks = next((pair for pair in MARKS if pair[1] in template.source), None)
        if marks is None:
            return Thinking(key=key)
        before, between = form(f"{marks[0]}\n{_REASONS}\n{marks[1]}\n\n{_ANSWER}")
        if not between.strip():
            before, between = _as_models_write_it(prompt, *marks)
    closing = between.strip()
    opening = before.strip() or closing.replace("/", "", 1)
    able = not prompt.rstrip().endswith(closing)
    return Thinking(able, key, before, between, opening, closing)


def _as_models_write_it(prompt: str, opening: str, closing: str) -> tuple[str, str]:
    """Before and between, for a template that drops reasoning wherever it stands."""
    opened = prompt.rstrip().endswith(opening)
    gap = prompt[len(prompt.rstrip()) :] if opened else "\n"
    return "" if opened else f"{opening}{gap}", f"{gap}{closing}{gap}{gap}"
