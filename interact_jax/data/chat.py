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
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax.data import thinking
from interact_jax.data.abilities import Abilities, abilities_of
from interact_jax.data.ending import END, choose_end, turn_end
from interact_jax.data.examples import as_ids
from interact_jax.data.rendering import DATE
from interact_jax.data.templates import ChatTemplate, Rendering
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
class LearnedReply:
    """How a reply is learned: `y`, the kind of prompt that it follows, and what became of its
    reasoning (a line of the summary, "" where it has none)."""

    y: Message
    prompt: str = PLAIN
    reasoning: str = ""


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """A tokenizer with its chat template, and how follow-ups and replies become tokens.

    `hindsight` is a text with "{o}"; `reply_tokens` is "in_place" (the ids that y has after the
    prompt) or "alone" (y tokenised by itself, as the reference implementation does).
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
        hindsight_text = HINDSIGHT.get(hindsight, hindsight)
        if "{o}" not in hindsight_text:
            raise InputError(
                f"hindsight={hindsight!r}: expected {', '.join(HINDSIGHT)}, or a text that holds "
                "{o} where the follow-up goes."
            )
        check_date(date)
        template = _template_of(tokenizer, Path(directory), date)
        chat = cls(tokenizer, template, hindsight_text, reply_tokens, thinking, end, stops)
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
        return choose_end(self.end, self.tokenizer.eos_token_id, self.turn_id, self.stops)

    def describe_end(self) -> str:
        """A line on how replies end where the tokenizer and its template disagree, else ""."""
        eos, turn = self.tokenizer.eos_token_id, self.turn_id
        if turn is None or turn == eos:
            return ""
        ends = [(eos, "the tokenizer's EOS"), (turn, "the chat template's end of a turn")]
        (end, name), (other, other_name) = ends if self.eos_id == eos else reversed(ends)
        return (
            f"replies end with {self.decode([end])!r}, {name}, and not with "
            f"{self.decode([other])!r}, {other_name} (data.end)"
        )

    @property
    def vocabulary(self) -> int:
        """Ids are below this number; they may have gaps."""
        return max(len(self.tokenizer), 1 + max(self.tokenizer.get_vocab().values(), default=-1))

    @functools.cached_property
    def abilities(self) -> Abilities:
        """What the template accepts and shows, determined on first use."""
        return abilities_of(self.template, reasoning=not self._ignores_reasoning)

    @functools.cached_property
    def reasoning_format(self) -> Thinking:
        """How the template handles reasoning, determined on first use."""
        return thinking.thinking_of(self.template)

    def render(
        self,
        messages: Sequence[Message],
        hindsight: str | None = None,
        tools: Sequence[Any] = (),
        kind: str = PLAIN,
    ) -> str:
        """The prompt as text, up to where the model's reply begins; `hindsight` is o or None.
        It is appended to the last user message, which tool messages may follow. `kind` says how
        the prompt treats reasoning: see `thinking`."""
        rows, tools, thinking = self.rendering(messages, hindsight, tools, kind)
        return self.finish(self.template.render(rows, tools, thinking=thinking), kind)

    def rendering(
        self,
        messages: Sequence[Message],
        hindsight: str | None = None,
        tools: Sequence[Any] = (),
        kind: str = PLAIN,
        known: dict[int, dict[str, Any]] | None = None,
    ) -> Rendering:
        """What `render` asks of the template, whose text `finish` makes the prompt. `known` has
        rows of living messages, by their `id`; they are used again."""
        known = {} if known is None else known
        for message in messages:
            if id(message) not in known:
                known[id(message)] = self._row(message)
        rows = [known[id(message)] for message in messages]
        if hindsight is not None:
            last = next(n for n in reversed(range(len(rows))) if rows[n]["role"] == "user")
            # replace() and not format(): braces elsewhere in the text mean nothing.
            shown = self.hindsight.replace("{o}", hindsight.strip())
            rows[last] = {**rows[last], "content": rows[last]["content"] + shown}
        if rows[0]["role"] != "user" or any(len(row) > 2 for row in rows):
            rows = self.abilities.fit(rows)
        return Rendering(rows, tools, thinking=kind == ON)

    def finish(self, text: str, kind: str) -> str:
        """The prompt, of what the template has made of it."""
        if kind == CLOSED and self.reasoning_format.opens(text):
            text += self.reasoning_format.between
        return text

    def _row(self, message: Message) -> dict[str, Any]:
        """A message as it is passed to the template."""
        row = {"role": message.role, "content": message.content, **message.fields}
        parts = parts_of(message.content, message.fields) if message.role == "assistant" else None
        if parts is None:
            return row
        if self.thinking == "off" or self._ignores_reasoning:
            return thinking.without_reasoning(row, parts)
        return self.reasoning_format.row(row, parts)

    @property
    def _ignores_reasoning(self) -> bool:
        """Whether the reasoning in a log is dropped because the template leaves no room for it."""
        return self.thinking == "auto" and not self.reasoning_format.supported

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text. If there is a BOS, the template has already written it."""
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

    @property
    def prompt_kind(self) -> str:
        """How prompts treat reasoning where replies are sampled, by data.thinking: with room for it
        (keep), closed (strip, off), or as for replies without it (auto).

        Raises InputError for keep where the chat template leaves no room.
        """
        if self.thinking == "keep":
            if not self.reasoning_format.supported:
                raise InputError(
                    "data.thinking=keep: the chat template leaves no room for reasoning. Take "
                    "another model, or leave the setting out."
                )
            return ON
        return CLOSED if self.thinking in ("strip", "off") else PLAIN

    def learned_reply(self, y: Message, room: bool = True) -> LearnedReply:
        """How y is learned; `room` says whether its prompt leaves room for reasoning."""
        leaves_out = self.thinking in ("off", "strip")
        parts = parts_of(y.content, y.fields)
        sampled = None if y.token_ids is None else parts_of(self.decode(y.token_ids))
        if parts is None and sampled is not None:  # the ids hold more than the log's text
            parts = dataclasses.replace(sampled, answer=y.content)
        if parts is None:
            return LearnedReply(y, CLOSED if leaves_out else PLAIN)
        if parts.reasoning and room and not leaves_out and not self._ignores_reasoning:
            keep_ids = sampled is not None and self._opens_where_prompt_does_not(y.token_ids)
            text = self.reasoning_format.render(parts)
            return LearnedReply(_with_text(y, text, keep_ids), ON, thinking.KEPT)
        reasoning = thinking.STRIPPED if leaves_out else thinking.UNSUPPORTED
        answer = _with_text(y, parts.answer, keep_ids=sampled is None)
        return LearnedReply(answer, CLOSED, reasoning if parts.reasoning else thinking.EMPTY)

    def _opens_where_prompt_does_not(self, ids: Iterable[int] | None) -> bool:
        """Whether a sampler's ids open the block exactly where the prompt does not."""
        opened = self.decode(ids or ()).lstrip().startswith(self.reasoning_format.opening)
        return opened == bool(self.reasoning_format.before)

    def reply(
        self,
        y: Message,
        prompt_text: str,
        prompt_ids: Sequence[int] | np.ndarray,
        ids_of: Callable[[str], Sequence[int] | np.ndarray] | None = None,
    ) -> np.ndarray:
        """Token ids [L] of y and its end; trailing white space of y is dropped first.

        Sampled ids are kept as they are. In place: y is tokenised after its prompt; where a token
        would span the boundary between the two, y is tokenised alone. `ids_of` takes the place of
        `encode` for texts that begin as the prompt does.
        """
        if y.token_ids is not None:
            return as_ids(y.token_ids)
        if text := self.text_of(y):
            whole, before = as_ids((ids_of or self.encode)(prompt_text + text)), as_ids(prompt_ids)
            if whole[: len(before)].tobytes() == before.tobytes():
                return np.concatenate([whole[len(before) :], as_ids([self.eos_id])])
        return as_ids([*self.encode(y.content.rstrip()), self.eos_id])

    def text_of(self, y: Message) -> str:
        """The text of y that is tokenised behind its prompt; "" where none is."""
        in_place = y.token_ids is None and self.reply_tokens == "in_place"
        return y.content.rstrip() if in_place else ""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, with special tokens written out and spaces unchanged."""
        return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds; joined, they give the whole text."""
        texts = [self.decode(ids[:n]) for n in range(len(ids) + 1)]
        # A character of several tokens appears with its last: until then decode() ends in U+FFFD.
        complete = [text.rstrip("\ufffd") for text in texts]
        return [after[len(before) :] for before, after in itertools.pairwise(complete)]

    def special_token_in(self, text: str) -> str | None:
        """The first special token that `text` would be parsed into, or None."""
        match = _special_pattern(self.tokenizer).search(text)
        return match and match.group()


def _with_text(y: Message, text: str, keep_ids: bool) -> Message:
    """The reply with another text; sampled ids and log-probabilities stay if `keep_ids`."""
    if keep_ids:
        return dataclasses.replace(y, content=text)
    return dataclasses.replace(y, content=text, token_ids=None, logps=None, sampling_logps=None)


def check_date(date: str, name: str = "data.date") -> None:
    """Raise InputError unless `date` is a day."""
    try:
        is_day = datetime.date.fromisoformat(date).isoformat() == date
    except ValueError:
        is_day = False
    if not is_day:
        raise InputError(f"{name}={date!r}: expected a day as YYYY-MM-DD, such as {DATE}.")


def _template_of(tokenizer: Any, directory: Path, date: str) -> ChatTemplate:
    """The chat template that transformers uses by default."""
    own = directory / "chat_template.jinja"
    file = own if own.is_file() else directory / "tokenizer_config.json"
    try:
        source = tokenizer.get_chat_template()
    except ValueError as error:  # several templates, none of them named default
        raise InputError(f"{file}: no chat template for everyday use ({error}).") from None
    if not isinstance(source, str):
        raise InputError(f"{file}: chat_template is not text but a {type(source).__name__}.")
    return ChatTemplate(source, tokenizer.special_tokens_map, file, date)


@functools.lru_cache(maxsize=8)
def _special_pattern(tokenizer: Any) -> re.Pattern[str]:
    tokens = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    tokens |= set(tokenizer.all_special_tokens)
    longest_first = sorted(tokens, key=lambda t: (-len(t), t))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
