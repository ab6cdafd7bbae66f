"""A user played by a model: a persona as system message, request and reply in one user message."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interact_jax.data.chat import ChatFormat
from interact_jax.data.thinking import parts_of
from interact_jax.generation.chat_model import Answer, ChatModel
from interact_jax.generation.engine import SamplingParams, seed_of
from interact_jax.schema import InputError, Message
from interact_jax.users.persona import Persona
from interact_jax.users.user import Reaction, Talk, count, read_counts

SAMPLING = SamplingParams(max_new_tokens=128, temperature=0.7)
SEES = ("exchange", "conversation")
LIMIT = 8_192  # of `measure`, by default characters: about 2,000 tokens
GAP = " [...] "  # in place of what was left out

ROLE = """You play a person who talks with an AI assistant. What is known of this person:

{persona}

You are given the conversation so far. Write the next message that this person would send."""
INSTRUCTION = """Write this person's next message to the assistant, in one or two sentences.
React to the assistant's last reply only as far as it meets or misses what this person wants of \
replies; whether its content is right does not matter.
If something is not as this person wants it, say what, and how it should be.
Do not answer the request yourself, and do not write for the assistant.
Give the message alone, without quotation marks or a name before it."""
HEADS = {"user": "The person wrote:", "assistant": "The assistant replied:"}


class PlayedUser:
    """A persona, played by any ChatModel.

    `sees` is "exchange", the last request and its reply, or "conversation", everything. What it is
    shown is at most `limit` in the unit of `measure` (characters, or a function that counts
    tokens): the oldest messages are left out first, then the middles of the request and the reply
    are cut; persona and instruction never are. A model that fails, or says nothing, makes no
    follow-up.
    """

    def __init__(
        self,
        name: str,
        persona: Persona,
        model: ChatModel,
        seed: int = 0,
        *,
        params: SamplingParams = SAMPLING,
        sees: str = "exchange",
        limit: int = LIMIT,
        measure: Callable[[str], int] = len,
    ):
        """Raises InputError where persona and instruction alone exceed the limit."""
        params.check()
        if sees not in SEES:
            raise InputError(f"user {name}: sees={sees!r}: expected one of {', '.join(SEES)}.")
        self.name, self.persona, self.model, self.seed = name, persona, model, seed
        self.params, self.sees, self.measure = params, sees, measure
        self.counts: collections.Counter[str] = collections.Counter()
        self._system = Message("system", ROLE.format(persona=persona.text))
        self._room = limit - measure(self._system.content)
        if measure(_prompt([("user", GAP), ("assistant", GAP)])) > self._room:
            raise InputError(
                f"user {name}: persona {persona.name} and the instruction leave no room for a "
                f"request and a reply in {limit}. Shorten the persona, or raise the limit."
            )

    def react(self, talks: Sequence[Talk]) -> list[Reaction]:
        if not talks:
            return []
        dialogues = [self._dialogue(talk) for talk in talks]
        seeds = [seed_of(self.seed, self.name, talk.id, talk.turn) for talk in talks]
        answers = self.model.answer(dialogues, self.params, seeds)
        reactions = [_reaction(answer) for answer in answers]
        count(self.counts, reactions)
        return reactions

    def _dialogue(self, talk: Talk) -> list[Message]:
        talk.check()
        messages = [message for message in talk.messages if message.role in HEADS]
        shown = messages if self.sees == "conversation" else messages[-2:]
        fitted, cut = fit([(m.role, m.content) for m in shown], self._room, self.measure)
        self.counts["prompts cut to the limit"] += cut
        return [self._system, Message("user", fitted)]

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "counts": dict(self.counts), "persona": self.persona.text}

    def restore(self, state: Mapping[str, Any]) -> None:
        counts = read_counts(self.name, state)
        if state.get("persona") != self.persona.text:
            raise InputError(
                f"user {self.name}: was another persona in the saved state. Resume with the "
                "personas that the run began with."
            )
        self.counts = counts


def _reaction(answer: Answer) -> Reaction:
    if answer.error:
        return Reaction("", error=answer.error)
    parts = parts_of(answer.text)  # of a model that thinks although it was asked not to
    text = (answer.text if parts is None else "" if parts.open else parts.answer).strip()
    return Reaction(text) if text else Reaction("", error="the model said nothing")


def token_limit(
    chat: ChatFormat, context: int, params: SamplingParams = SAMPLING
) -> dict[str, Any]:
    """`limit` and `measure` of a PlayedUser in tokens, for a model of this process: prompt and
    message then fit its context."""
    frame = len(chat.prompt([Message("system", ""), Message("user", "")]))
    return {
        "limit": context - params.max_new_tokens - frame,
        "measure": lambda text: len(chat.encode(text)),
    }


Shown = tuple[str, str]
"""A message as role and text."""


def fit(messages: Sequence[Shown], room: int, measure: Callable[[str], int]) -> tuple[str, bool]:
    """(the prompt, whether anything was left out): at most `room` in the unit of `measure`.

    The last two messages stay, if only in part: each keeps as many characters as fit, of its
    beginning and its end.
    """
    shown = list(messages)
    while len(shown) > 2 and measure(_prompt(shown)) > room:
        del shown[0]
    if measure(_prompt(shown)) <= room:
        return _prompt(shown), len(shown) < len(messages)
    fewest, most = 0, max(len(text) for _, text in shown)
    while most - fewest > 1:  # the largest number of characters that fits
        middle = (fewest + most) // 2
        fits = measure(_prompt(_shortened(shown, middle))) <= room
        fewest, most = (middle, most) if fits else (fewest, middle)
    return _prompt(_shortened(shown, fewest)), True


def _shortened(messages: Sequence[Shown], characters: int) -> list[Shown]:
    return [(role, shorten(text, characters)) for role, text in messages]


def shorten(text: str, characters: int) -> str:
    """The beginning and the end of a text, so many characters in all, and a mark between them."""
    if len(text) <= characters:
        return text
    end = characters // 2
    return text[: characters - end] + GAP + text[len(text) - end :]


def _prompt(messages: Sequence[Shown]) -> str:
    texts = [f"{HEADS[role]}\n<<<\n{text}\n>>>" for role, text in messages]
    return "\n\n".join([*texts, INSTRUCTION])
