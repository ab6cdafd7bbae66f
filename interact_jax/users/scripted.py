"""The scripted users of the pocket world: they know the right answers and have a preference."""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from interact_jax.generation.engine import seed_of
from interact_jax.pocket import world
from interact_jax.pocket.reading import request_in
from interact_jax.schema import InputError
from interact_jax.users.user import Reaction, Talk, count, read_counts

MOODS = ("praise", "chatter", "request")


class ScriptedUser:
    """A `world.User` behind the interface of users.

    What a reply is judged against is the last message of the conversation that is a request of the
    pocket world: complaints and corrections ask for the same thing again. `leaves` is the
    probability of leaving without a follow-up. A user who is not `related` says something without
    a wish, whatever the reply: praise, chatter or another request.
    """

    def __init__(
        self,
        name: str,
        preference: world.Styles,
        seed: int = 0,
        *,
        leaves: float = 0.0,
        related: bool = True,
    ):
        """Raises InputError for a preference without styles or with unknown ones."""
        if not 0 <= leaves <= 1:
            raise InputError(f"user {name}: leaves={leaves}: expected a probability, 0 to 1.")
        self.name, self.seed, self.leaves, self.related = name, seed, leaves, related
        self.counts: collections.Counter[str] = collections.Counter()
        self._user = world.User(world.check_preference(preference))

    @property
    def preference(self) -> dict[str, bool]:
        return dict(self._user.preference)

    def prefer(self, preference: world.Styles) -> None:
        """Want something else from now on. Raises InputError as above."""
        self._user = dataclasses.replace(self._user, preference=world.check_preference(preference))

    def react(self, talks: Sequence[Talk]) -> list[Reaction]:
        reactions = [self._react(talk) for talk in talks]
        count(self.counts, reactions)
        return reactions

    def _react(self, talk: Talk) -> Reaction:
        talk.check()
        request = last_request(talk)
        rng = random.Random(seed_of(self.seed, self.name, talk.id, talk.turn))
        if rng.random() < self.leaves:
            return Reaction("")
        if self.related:
            reply = talk.messages[-1].content
            follow_up = self._user.respond(request, reply, rng, last=talk.last)
        else:
            follow_up = world.unrelated(rng.choice(MOODS), rng)
        return Reaction(follow_up.text, follow_up.kind)

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "counts": dict(self.counts), "preference": self.preference}

    def restore(self, state: Mapping[str, Any]) -> None:
        counts = read_counts(self.name, state)
        preference = state.get("preference")
        if not isinstance(preference, Mapping):
            raise InputError(f"user {self.name}: the saved state has no preference.")
        self.prefer(preference)
        self.counts = counts


def last_request(talk: Talk) -> world.Request:
    """What the user wants to know. Raises InputError for a conversation of another world."""
    if request := request_in(talk.messages):
        return request
    raise InputError(
        f"conversation {talk.id}: none of its messages is a request of the pocket world, which is "
        "all that scripted users can judge. Take its prompts, or a user played by a model."
    )
