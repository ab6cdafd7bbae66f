"""From messages to token ids: chat templates, the hindsight prompt, and the ids of a reply.

The hindsight prompt is the plain prompt with a block appended to its last user message; the block
shows the model what the user said next. Both are rendered by the tokenizer's own chat template.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from interact_jax.data import thinking
from interact_jax.data.abilities import Abilities, abilities_of
from interact_jax.data.ending import END, chosen, turn_end
from interact_jax.data.rendering import DATE
from interact_jax.data.templates import ChatTemplate
from interact_jax.data.thinking import CLOSED, ON, PLAIN, THINKING, Thinking, parts_of
from interact_jax.data.tokenizer import load_tokenizer
from interact_jax.schema import InputError, Message
from interact_jax.settings import Setting

# The two prompts of the paper, arXiv 2603.12273 and its code (see NOTICE); {o} is the follow-up.
HINDSIGHT = {
    "offline": (
        "\n\n[HINDSIGHT CONTEXT]\nThe following is a user response to your previous, insufficient"
        " attempt. Improve your response to the user prompt.\nFuture User Message: {o}"
    ),
    "online": (
        "\n\n=== HINDSIGHT CONTEXT ===\n[The following is a future user message. Use this to guide"
        " your answer to the user prompt.]\n{o}"
    ),
}
REPLY_TOKENS = ("in_place", "alone")
SETTINGS = {
    "data.reply_tokens": Setting(
        "in_place",
        "how y is tokenised: behind its prompt (in_place), or by itself (alone, as the "
        "paper's code does)",
        REPLY_TOKENS,
    ),
    "data.thinking": Setting(
        "auto",
        "what to do with reasoning in replies: keep learns it, in prompts with thinking on;"
        " strip removes it from y; off removes it from the history as well; auto keeps it "
        "if the chat template has room for it; all cases are counted",
        THINKING,
    ),
    "data.date": Setting(DATE, "the date that chat templates see as today, YYYY-MM-DD"),
    "data.end": Setting(
        "auto",
        "the token that ends y: the tokenizer's EOS (eos), or the one that ends a turn in "
        "the chat template (turn); auto = the latter, if it differs and generation stops at"
        " it",
        END,
    ),
    "hindsight": Setting(
        "offline",
        "the prompt that shows o to the teacher: offline, online, or a text of your own "
        "with {o} in it",
    ),
}


@dataclasses.dataclass(frozen=True)
class Said:
    """How a reply is learned: `y`, the kind of prompt that it stands behind, and what became of
    its reasoning (a line of the summary, "" where it has none)."""

    y: Message
    prompt: str = PLAIN
    treated: str = ""


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """A tokenizer with its chat template, and how follow-ups and replies become tokens.

    `hindsight` is a text with "{o}"; `reply_tokens` is "in_place" (the ids y has where it stands
    behind the prompt) or "alone" (y tokenised by itself, as the reference implementation does).
    `thinking` and `end` are the settings `data.*` of these names; `stops` are the ids at which the
    model's own files end sampling.
    """

    tokenizer: Any
    template: ChatTemplate
    hindsight: str = HINDSIGHT["offline"]
    reply_tokens: str = "in_place"
    thinking: str = "auto"
    end: str = "auto"
    stops: Collection[int] = ()

    @classmethod
    def load(
        cls,
        directory: str | Path,
        hindsight: str = "offline",
        reply_tokens: str = "in_place",
        *,
        thinking: str = "auto",
        date: str = DATE,
        end: str = "auto",
        stops: Collection[int] = (),
    ) -> ChatFormat:
        """Load a Hugging Face tokenizer directory; `hindsight` is a name in HINDSIGHT or a text.

        Raises InputError where the tokenizer lacks what chats need: a chat template, an EOS token.
        """
        tokenizer = load_tokenizer(Path(directory))
        tokenizer.model_max_length = 1 << 30  # lengths are checked against the model, not here
        if not tokenizer.chat_template:
            raise InputError(
                f"{directory}: the tokenizer has no chat template, so conversations cannot be "
                "rendered. Put the model's chat_template.jinja into that directory (base models "
                "have none: take the one of their chat version), or set model.tokenizer to another "
                "directory."
            )
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"{directory}: the tokenizer has no EOS token, so a reply could not learn to stop. "
                'Set "eos_token" in tokenizer_config.json to the token that ends a reply.'
            )
        for name, value, choices in (
            ("data.reply_tokens", reply_tokens, REPLY_TOKENS),
            ("data.thinking", thinking, THINKING),
            ("data.end", end, END),
        ):
            if value not in choices:
                raise InputError(f"{name}={value!r}: expected one of {', '.join(choices)}.")
        shows = HINDSIGHT.get(hindsight, hindsight)
        if "{o}" not in shows:
            raise InputError(
                f"hindsight={hindsight!r}: expected {', '.join(HINDSIGHT)}, or a text that holds "
                "{o} where the follow-up goes."
            )
        check_date(date)
        template = _template_of(tokenizer, Path(directory), date)
        chat = cls(tokenizer, template, shows, reply_tokens, thinking, end, stops)
        if end == "turn" and chat.turn_id is None:
            raise InputError(
                f"data.end=turn: the chat template of {directory} ends a reply with no token of "
                "its own. Set data.end=eos."
            )
        return chat

    @functools.cached_property
    def turn_id(self) -> int | None:
        """The token with which the template ends a reply; None where there is none."""
        return turn_end(self.template, self.tokenizer)

    @functools.cached_property
    def eos_id(self) -> int:
        """The token that ends a reply, by `end`: the tokenizer's EOS, or `turn_id`."""
        return chosen(self.end, self.tokenizer.eos_token_id, self.turn_id, self.stops)

    def end_told(self) -> str:
        """A line on how replies end, where the tokenizer and its template do not agree; else ""."""
        eos, turn = self.tokenizer.eos_token_id, self.turn_id
        if turn is None or turn == eos:
            return ""
        ends = [(eos, "the tokenizer's EOS"), (turn, "the chat template's end of a turn")]
        (end, whose), (other, others) = ends if self.eos_id == eos else reversed(ends)
        return (
            f"replies end with {self.decode([end])!r}, {whose}, and not with "
            f"{self.decode([other])!r}, {others} (data.end)"
        )

    @property
    def vocabulary(self) -> int:
        """Ids are below this number; they may have gaps."""
        return max(len(self.tokenizer), 1 + max(self.tokenizer.get_vocab().values(), default=-1))

    @functools.cached_property
    def abilities(self) -> Abilities:
        """What the template takes and shows, found out when it is first asked."""
        return abilities_of(self.template, reasoning=not self._unheeded)

    @functools.cached_property
    def thinks(self) -> Thinking:
        """What the template makes of reasoning, found out when it is first asked."""
        return thinking.thinking_of(self.template)

    def render(
        self,
        messages: Sequence[Message],
        hindsight: str | None = None,
        tools: Sequence[Any] = (),
        kind: str = PLAIN,
    ) -> str:
        """The prompt as text, up to where the model's reply begins; `hindsight` is o or None. It
        goes to the last message of the user, behind which may be those of tools. `kind` says what
        the prompt does about reasoning: see `thinking`."""
        rows = [self._row(message) for message in messages]
        if hindsight is not None:
            asked = next(row for row in reversed(rows) if row["role"] == "user")
            # replace() and not format(): braces elsewhere in the text mean nothing.
            asked["content"] += self.hindsight.replace("{o}", hindsight.strip())
        if rows[0]["role"] != "user" or any(len(row) > 2 for row in rows):
            rows = self.abilities.fit(rows)
        text = self.template.render(rows, tools, thinking=kind == ON)
        if kind == CLOSED and self.thinks.opens(text):
            text += self.thinks.between
        return text

    def _row(self, message: Message) -> dict[str, Any]:
        """A message as the template is told it."""
        row = {"role": message.role, "content": message.content, **message.fields}
        parts = parts_of(message.content, message.fields) if message.role == "assistant" else None
        if parts is None:
            return row
        if self.thinking == "off" or self._unheeded:
            return thinking.without(row, parts)
        return self.thinks.row(row, parts)

    @property
    def _unheeded(self) -> bool:
        """Whether a log's reasoning is of no use, since the template leaves no room for any."""
        return self.thinking == "auto" and not self.thinks.able

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text. The template has written BOS already where there is one."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(
        self,
        messages: Sequence[Message],
        hindsight: str | None = None,
        tools: Sequence[Any] = (),
        kind: str = PLAIN,
    ) -> list[int]:
        """Token ids of the prompt, with the generation prompt."""
        return self.encode(self.render(messages, hindsight, tools, kind))

    def said(self, y: Message, room: bool = True) -> Said:
        """How y is learned; `room` says whether its prompt leaves any for reasoning."""
        leaves_out = self.thinking in ("off", "strip")
        parts = parts_of(y.content, y.fields)
        sampled = None if y.token_ids is None else parts_of(self.decode(y.token_ids))
        if parts is None and sampled is not None:  # the ids are of more than the words of the log
            parts = dataclasses.replace(sampled, answer=y.content)
        if parts is None:
            return Said(y, CLOSED if leaves_out else PLAIN)
        if parts.reasoning and room and not leaves_out and not self._unheeded:
            ids = sampled is not None and self._begins_as_told(y.token_ids)
            return Said(_spoken(y, self.thinks.written(parts), ids), ON, thinking.KEPT)
        treated = thinking.ASKED_OUT if leaves_out else thinking.UNABLE
        answer = _spoken(y, parts.answer, ids=sampled is None)
        return Said(answer, CLOSED, treated if parts.reasoning else thinking.EMPTY)

    def _begins_as_told(self, ids: Iterable[int] | None) -> bool:
        """Whether a sampler's ids open the block where the prompt does not, and only there."""
        opened = self.decode(ids or ()).lstrip().startswith(self.thinks.opening)
        return opened == bool(self.thinks.before)

    def reply(self, y: Message, prompt_text: str, prompt_ids: Sequence[int]) -> list[int]:
        """Token ids of y and its end; trailing white space of y is dropped first.

        What a sampler produced is kept as it is. In place: y is tokenised behind its prompt; where
        a token would span the border between the two, y is tokenised alone.
        """
        if y.token_ids is not None:
            return list(y.token_ids)
        text = y.content.rstrip()
        if self.reply_tokens == "in_place":
            whole = self.encode(prompt_text + text)
            if whole[: len(prompt_ids)] == list(prompt_ids):
                return [*whole[len(prompt_ids) :], self.eos_id]
        return [*self.encode(text), self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens written out and spaces as they are."""
        return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds; joined they are the text of all."""
        texts = [self.decode(ids[:n]) for n in range(len(ids) + 1)]
        # A character in several tokens shows up with its last: until then decode() ends in U+FFFD.
        shown = [text.rstrip("\ufffd") for text in texts]
        return [after[len(before) :] for before, after in itertools.pairwise(shown)]

    def special_token_in(self, text: str) -> str | None:
        """The first special token that `text` would be parsed into, or None."""
        found = _special_pattern(self.tokenizer).search(text)
        return found and found.group()


def _spoken(y: Message, text: str, ids: bool) -> Message:
    """The reply as a text; what a sampler produced for it stays if `ids`."""
    if ids:
        return dataclasses.replace(y, content=text)
    return dataclasses.replace(y, content=text, token_ids=None, logps=None)


def check_date(date: str, name: str = "data.date") -> None:
    """Raise InputError for what is no day."""
    try:
        right = datetime.date.fromisoformat(date).isoformat() == date
    except ValueError:
        right = False
    if not right:
        raise InputError(f"{name}={date!r}: expected a day as YYYY-MM-DD, such as {DATE}.")


def _template_of(tokenizer: Any, directory: Path, date: str) -> ChatTemplate:
    """The chat template that transformers takes where no other is asked for."""
    own = directory / "chat_template.jinja"
    file = own if own.is_file() else directory / "tokenizer_config.json"
    try:
        source = tokenizer.get_chat_template()
    except ValueError as error:  # several, and none is named default
        raise InputError(f"{file}: no chat template for everyday use ({error}).") from None
    if not isinstance(source, str):
        raise InputError(f"{file}: chat_template is no text but a {type(source).__name__}.")
    return ChatTemplate(source, tokenizer.special_tokens_map, file, date)


@functools.lru_cache(maxsize=8)
def _special_pattern(tokenizer: Any) -> re.Pattern[str]:
    tokens = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    tokens |= set(tokenizer.all_special_tokens)
    longest_first = sorted(tokens, key=lambda t: (-len(t), t))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
