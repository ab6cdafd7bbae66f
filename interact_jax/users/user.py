"""What every user can do: react to the last reply of a conversation, or leave.

    talks = [Talk(id, messages, user="anna") ...]           each ends with a reply
    reactions = react({"anna": anna, "ben": ben}, talks)    one each, in the same order

A reaction depends on the user, its seed, the conversation's id and messages, and on nothing else:
not on the order of talks, nor on what the user did before. What a user did is counted, and its
state (preferences that may change, and counts) can be saved and restored as JSON.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from interact_jax.schema import InputError, Message

FOLLOW_UP, LEFT, FAILED = "follow-up", "left", "failed"


@dataclasses.dataclass(frozen=True)
class Talk:
    """A conversation that waits for its user. `id` is the conversation's; `last`: it ends with the
    user's next message, if there is one."""

    id: str
    messages: Sequence[Message]
    user: str = ""
    last: bool = False

    @property
    def turn(self) -> int:
        """Which reply of the conversation is the last: 1 for the first."""
        return sum(message.role == "assistant" for message in self.messages)

    def check(self) -> None:
        """Raise InputError where there is no reply to react to."""
        roles = [message.role for message in self.messages]
        if roles[-2:] != ["user", "assistant"]:
            raise InputError(
                f"conversation {self.id}: a user reacts to a request and its reply, but it ends "
                f"with {', '.join(roles[-2:]) or 'no messages'}."
            )


@dataclasses.dataclass(frozen=True)
class Reaction:
    """What a user does after a reply: the follow-up's `text`, or "" for leaving without one.

    `kind` says of what sort it is, in words of the user; `error` why there is no follow-up though
    the user did not leave.
    """

    text: str
    kind: str = ""
    error: str = ""

    @property
    def outcome(self) -> str:
        """FOLLOW_UP, LEFT or FAILED."""
        return FAILED if self.error else FOLLOW_UP if self.text else LEFT


class User(Protocol):
    """Somebody with a `name`. `counts` has the numbers of reactions by outcome, and more."""

    name: str
    counts: collections.Counter[str]

    def react(self, talks: Sequence[Talk]) -> list[Reaction]:
        """A reaction to the last reply of each, in order. Raises InputError for talks that are
        not this user's kind."""
        ...

    def state(self) -> dict[str, Any]:
        """All that changes over time, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises InputError for one that is not such a user's."""
        ...


def react(users: Mapping[str, User], talks: Sequence[Talk]) -> list[Reaction]:
    """The reactions of everybody to their own talks, each user asked once for all of them.

    Raises InputError for a talk of an unknown user.
    """
    places: dict[str, list[int]] = {}
    for place, talk in enumerate(talks):
        if talk.user not in users:
            raise InputError(
                f"conversation {talk.id}: no user {talk.user!r}; there are {', '.join(users)}."
            )
        talk.check()
        places.setdefault(talk.user, []).append(place)
    reactions: dict[int, Reaction] = {}
    for name, own in places.items():
        reactions |= zip(own, users[name].react([talks[place] for place in own]), strict=True)
    return [reactions[place] for place in range(len(talks))]


def count(counts: collections.Counter[str], reactions: Sequence[Reaction]) -> None:
    """Add reactions to a user's counts, by outcome and by kind."""
    counts.update(reaction.outcome for reaction in reactions)
    counts.update(f"kind: {reaction.kind}" for reaction in reactions if reaction.kind)


def read_counts(name: str, state: Mapping[str, Any]) -> collections.Counter[str]:
    """The counts in a state. Raises InputError where it is none of this user's."""
    counts = state.get("counts")
    fits = isinstance(counts, Mapping) and all(type(n) is int for n in counts.values())
    if state.get("name") != name or not fits:
        raise InputError(
            f"user {name}: the saved state is of {state.get('name')!r}, or damaged. Resume with "
            "the users that the run began with."
        )
    assert isinstance(counts, Mapping)
    return collections.Counter(counts)
