"""The reasoning of replies: read from logs, and written in the form of a chat template.

    {"content": "<think>\\nTwo and two.\\n</think>\\n\\nFour."}               in the text
    {"content": "Four.", "reasoning_content": "Two and two."}              in a field of its own

A template may take reasoning from the text or from a field, and show it in the history or not; its
generation prompt may open the block, close an empty one, or leave it to the model. Nothing here
depends on a template's name: each one is tried.
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
"""Fields from which templates take reasoning."""
MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
)
"""Marks that enclose it in the text of a log. How a template writes it is tried."""
OPENINGS = tuple(opening for opening, _ in MARKS)
_ALONE = re.compile(rf"^(?:{'|'.join(re.escape(close) for _, close in MARKS)})[ \t]*$", re.M)

# Kinds of prompt: the usual one, one with room for reasoning, one that ends with a closed block.
PLAIN, ON, CLOSED = "plain", "on", "closed"

# What became of the reasoning of a reply; the values go into the summary of a data set.
KEPT = "replies with reasoning: learned with it, their prompts rendered with thinking on"
STRIPPED = "replies with reasoning: learned without it, as data.thinking says"
UNSUPPORTED = "replies with reasoning: learned without it, the chat template leaves no room for it"
EMPTY = "replies with an empty block of reasoning: learned without it"
NO_BLOCK = "replies without reasoning, behind a prompt that opens a block of it"
NOTES = {
    KEPT: "thinking on",
    STRIPPED: "thinking off, reasoning left out",
    UNSUPPORTED: "thinking off, reasoning left out",
    EMPTY: "thinking off, an empty block left out",
    NO_BLOCK: "no reasoning, but the prompt opens a block of it",
}
"""The same, for a picture of one reply."""
NO_ANSWER = "interactions left out: a reply is nothing without its reasoning"
OTHER_IDS = "replies with reasoning: token_ids not used, they do not go with the prompt"


@dataclasses.dataclass(frozen=True)
class Parts:
    """Reasoning and answer of a reply. `open`: the reasoning was cut off and nothing follows."""

    reasoning: str
    answer: str
    open: bool = False


def parts_of(text: str, fields: Mapping[str, Any] | None = None) -> Parts | None:
    """Reasoning and answer of a reply; None where there is no sign of reasoning.

    A block stands at the beginning of the text. Where the prompt had opened it, the log has only
    its end, on a line of its own.
    """
    in_text = _parts_in_text(text)
    in_field = (fields or {}).get(KEY)
    in_field = in_field.strip() if isinstance(in_field, str) else ""
    if in_text is None:
        return Parts(in_field, text) if in_field else None
    both = [part for part in dict.fromkeys((in_field, in_text.reasoning)) if part]
    return dataclasses.replace(in_text, reasoning="\n\n".join(both))


def _parts_in_text(text: str) -> Parts | None:
    if "<" not in text and "[" not in text:  # most texts
        return None
    body = text.lstrip()
    for opening, closing in MARKS:
        if body.startswith(opening):
            reasoning, mark, answer = body.removeprefix(opening).partition(closing)
            return Parts(reasoning.strip(), answer.lstrip(), open=not mark)
    if not any(closing in text for _, closing in MARKS):  # skip the search by line
        return None
    if (end := _ALONE.search(text)) and not any(mark in text[: end.start()] for mark, _ in MARKS):
        return Parts(text[: end.start()].strip(), text[end.end() :].lstrip())
    return None


@dataclasses.dataclass(frozen=True)
class Thinking:
    """How a template handles reasoning.

    `supported`: its prompts can leave room for reasoning. `key` is the field from which it takes
    reasoning, "" where it wants it in the text. A reply is `before`, reasoning, `between`, answer;
    `before` is empty where the prompt has opened the block. `opening` and `closing` are the marks.
    """

    supported: bool = False
    key: str = ""
    before: str = "<think>\n"
    between: str = "\n</think>\n\n"
    opening: str = "<think>"
    closing: str = "</think>"

    def render(self, parts: Parts) -> str:
        """What the model says after a prompt with thinking on."""
        if parts.open:
            return self.before + parts.reasoning
        return f"{self.before}{parts.reasoning}{self.between}{parts.answer}"

    def row(self, row: dict[str, Any], parts: Parts) -> dict[str, Any]:
        """A message of the history with its reasoning, in the form that the template takes."""
        row = {name: value for name, value in row.items() if name != KEY}
        if self.key:
            return {**row, "content": parts.answer, self.key: parts.reasoning}
        end = "" if parts.open else f"\n{self.closing}\n\n{parts.answer}"
        return {**row, "content": f"{self.opening}\n{parts.reasoning}{end}"}

    def opens(self, prompt: str) -> bool:
        """Whether a prompt ends with an open block."""
        return prompt.rstrip().endswith(self.opening)

    def closes(self, prompt: str) -> bool:
        """Whether a prompt ends with a closed block."""
        return prompt.rstrip().endswith(self.closing)


def opens_a_block(prompt: str) -> bool:
    """Whether a prompt ends with an open block of MARKS, without asking its template."""
    return prompt.rstrip().endswith(OPENINGS)


def without_reasoning(row: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """A message of the history without its reasoning."""
    kept = {name: value for name, value in row.items() if name != KEY}
    return {**kept, "content": parts.answer}


# Words that no template contains.
_REASONS, _ANSWER = "zqreasonsqz", "zqanswerqz"
_USER = {"role": "user", "content": "Hi"}


def thinking_of(template: ChatTemplate) -> Thinking:
    """How a template handles reasoning, found with a few renderings."""

    def render(rows: Sequence[Mapping[str, Any]], finished: bool = False) -> str:
        try:
            return template.render(rows, thinking=True, finished=finished)
        except Refusal:
            return ""

    def takes(key: str) -> bool:
        reply = {"role": "assistant", "content": _ANSWER, key: _REASONS}
        return _REASONS in render([_USER, reply], True) + render([_USER, reply, _USER])

    def form(content: str, **fields: str) -> tuple[str, str]:
        """What stands before the reasoning of a reply, and between reasoning and answer."""
        text = render([_USER, {"role": "assistant", "content": content, **fields}], True)
        before, reasons, rest = text.removeprefix(prompt).partition(_REASONS)
        between, answer, _ = rest.partition(_ANSWER)
        complete = text.startswith(prompt) and reasons and answer
        return (before, between) if complete else ("", "")

    prompt = render([_USER])
    if not prompt:
        return Thinking()
    key = next(filter(takes, KEYS), "")
    before, between = form(_ANSWER, **{key: _REASONS}) if key else ("", "")
    if not between.strip():  # not from a field; if from the text, then between known marks
        marks = next((pair for pair in MARKS if pair[1] in template.source), None)
        if marks is None:
            return Thinking(key=key)
        before, between = form(f"{marks[0]}\n{_REASONS}\n{marks[1]}\n\n{_ANSWER}")
        if not between.strip():
            before, between = _default_form(prompt, *marks)
    closing = between.strip()
    opening = before.strip() or closing.replace("/", "", 1)
    supported = not prompt.rstrip().endswith(closing)
    return Thinking(supported, key, before, between, opening, closing)


def _default_form(prompt: str, opening: str, closing: str) -> tuple[str, str]:
    """`before` and `between` as models write them, for a template that drops all reasoning."""
    opened = prompt.rstrip().endswith(opening)
    gap = prompt[len(prompt.rstrip()) :] if opened else "\n"
    return "" if opened else f"{opening}{gap}", f"{gap}{closing}{gap}{gap}"
