"""Conversations as they happen: the policy replies, a user reacts, until all turns are played.

    player = Player(engine, chat, params, turns=2, room=1024, seed=0)
    played = player.play([Opening("p7", messages, user="anna")], users)

The conversation's k-th reply is drawn from the messages before it, and the user's reaction to it is
the message after it. Ids and log-probabilities are kept as the engine gave them.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from interact_jax.data.chat import ChatFormat
from interact_jax.generation.chat_model import message_of
from interact_jax.generation.engine import Completion, Engine, Request, SamplingParams, seed_of
from interact_jax.schema import Conversation, Message
from interact_jax.users import Reaction, Talk, User, react
from interact_jax.users.user import FAILED, FOLLOW_UP, LEFT

SPECIAL = "conversations ended early: text of a special token in a message"
NO_ROOM = "conversations ended early: no room for another reply"
EMPTY = "replies without text, which are not learned"
CUT = "replies cut at online.new_tokens"
CUT_BY_ROOM = "replies cut at data.max_length or the model's context"
ENDINGS = {LEFT: "conversations that the user left", FAILED: "follow-ups that failed"}


@dataclasses.dataclass(frozen=True)
class Opening:
    """What a conversation begins with: messages up to the user's first, and who that is."""

    id: str
    messages: tuple[Message, ...]
    user: str


@dataclasses.dataclass(frozen=True)
class Played:
    """A conversation as far as it went. `kinds` are of the user's reactions, in order; `version`
    is that of the oldest weights that drew a token of it."""

    conversation: Conversation
    kinds: tuple[str, ...]
    version: int


@dataclasses.dataclass
class Player:
    """Plays conversations. `room` is how many tokens a prompt and its reply may have; every random
    number follows from `seed`, the conversation's id and its turn. `counts` has what happened."""

    engine: Engine
    chat: ChatFormat
    params: SamplingParams
    turns: int
    room: int
    seed: int
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def play(self, openings: Sequence[Opening], users: Mapping[str, User]) -> list[Played]:
        """All conversations, turn by turn, in the order of `openings`.

        Raises InputError for an opening of an unknown user.
        """
        talks = [_Talk(opening, list(opening.messages)) for opening in openings]
        for turn in range(1, self.turns + 1):
            going = [talk for talk in talks if talk.going and self._has_room(talk)]
            if not going:
                break
            completions = self.engine.sample([self._request(talk, turn) for talk in going])
            for talk, completion in zip(going, completions, strict=True):
                self._take(talk, completion)
            asked = [
                Talk(t.opening.id, tuple(t.messages), t.opening.user, turn == self.turns)
                for t in going
            ]
            for talk, reaction in zip(going, react(users, asked), strict=True):
                self._answer(talk, reaction)
        return [talk.played() for talk in talks]

    def _has_room(self, talk: _Talk) -> bool:
        talk.ids = self.chat.prompt(talk.messages, kind=self.chat.prompt_kind)
        talk.going = len(talk.ids) < self.room
        self.counts[NO_ROOM] += not talk.going
        return talk.going

    def _request(self, talk: _Talk, turn: int) -> Request:
        limit = min(self.params.max_new_tokens, self.room - len(talk.ids))
        params = dataclasses.replace(self.params, max_new_tokens=limit)
        return Request(talk.ids, params, seed_of(self.seed, talk.opening.id, turn))

    def _take(self, talk: _Talk, completion: Completion) -> None:
        message = message_of(completion, self.chat, self.params.stop)
        talk.messages.append(message)
        talk.versions.append(completion.version)
        self.counts[EMPTY] += not message.content
        if not (completion.finished or completion.stopped):
            had_room = len(completion.ids) >= self.params.max_new_tokens
            self.counts[CUT if had_room else CUT_BY_ROOM] += 1

    def _answer(self, talk: _Talk, reaction: Reaction) -> None:
        talk.kinds.append(reaction.kind or reaction.outcome)
        if reaction.outcome != FOLLOW_UP:
            self.counts[ENDINGS[reaction.outcome]] += 1
            talk.going = False
            return
        talk.messages.append(Message("user", reaction.text))
        if any(self.chat.special_token_in(m.content) for m in talk.messages[-2:]):
            self.counts[SPECIAL] += 1  # the next prompt would read it as a token of the template
            talk.going = False


@dataclasses.dataclass
class _Talk:
    opening: Opening
    messages: list[Message]
    kinds: list[str] = dataclasses.field(default_factory=list)
    versions: list[int] = dataclasses.field(default_factory=list)
    ids: list[int] = dataclasses.field(default_factory=list)  # of the prompt
    going: bool = True

    def played(self) -> Played:
        conversation = Conversation(self.opening.id, tuple(self.messages), self.opening.user)
        return Played(conversation, tuple(self.kinds), min(self.versions, default=0))
