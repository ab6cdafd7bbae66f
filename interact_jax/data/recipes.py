"""Recipes: what is learned from a conversation. A new one is a function here and an entry below.

for draft in RECIPES["hindsight"].drafts(conversation): ...
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from interact_jax.data.conversations import INTERACTION, count_interactions
from interact_jax.data.examples import PREFERRED, REJECTED, Draft
from interact_jax.schema import Conversation, Interaction, Message, Preference

PLAIN, HINDSIGHT = "plain", "hindsight"
PLAIN_ONLY: Mapping[str, str | None] = {PLAIN: None}


def _draft(
    name: str, x: Sequence[Message], y: Message, views: Mapping[str, str | None] = PLAIN_ONLY
) -> Draft:
    return Draft(name, x, y, views, weight=y.weight)


def hindsight(conversation: Conversation) -> Iterator[Draft]:
    """Every interaction (x, y, o): y without o and with it."""
    for i in conversation.interactions():
        yield _draft(i.id, i.x, i.y, {PLAIN: None, HINDSIGHT: i.o.content})


def replies(conversation: Conversation) -> Iterator[Draft]:
    """The logged reply of every interaction."""
    for i in conversation.interactions():
        yield _draft(i.id, i.x, i.y)


def revised_replies(conversation: Conversation) -> Iterator[tuple[Interaction, Message]]:
    """Every interaction whose follow-up was answered, with that answer: the revised reply."""
    places = (index for _, index in conversation.replies())
    for i, index in zip(conversation.interactions(), places, strict=True):
        reply = next(iter(conversation.messages[index + 2 : index + 3]), None)
        if reply is not None and reply.role == "assistant" and reply.content:
            yield i, reply


def revisions(conversation: Conversation) -> Iterator[Draft]:
    """The reply after the complaint, as the answer to what was asked before it."""
    for i, reply in revised_replies(conversation):
        yield _draft(i.id, i.x, reply)


def pairs(conversation: Conversation) -> Iterator[Draft]:
    """Preferred against rejected: the pairs of the data; where it has none, the revised reply
    against the one that the user complained about."""
    if conversation.preferences is None:
        compared: Iterable[tuple[str, Sequence[Message], Message, Message]] = (
            (i.id, i.x, reply, i.y) for i, reply in revised_replies(conversation)
        )
    else:
        compared = _given_pairs(conversation.preferences, conversation)
    for name, x, chosen, rejected in compared:
        better = _draft(f"{name}+", x, chosen)
        yield dataclasses.replace(better, unit=name, side=PREFERRED)
        worse = dataclasses.replace(better, id=f"{name}-", y=rejected)
        yield dataclasses.replace(worse, unit=name, side=REJECTED)


def _given_pairs(
    preferences: Sequence[Preference], conversation: Conversation
) -> list[tuple[str, Sequence[Message], Message, Message]]:
    """The pairs of the data: (name, x, chosen, rejected), in the order of the dialogue; a second
    pair with the same history is named "c_3.2"."""
    ordered = sorted(preferences, key=lambda p: p.index)
    given: list[tuple[str, Sequence[Message], Message, Message]] = []
    for index, group in itertools.groupby(ordered, key=lambda p: p.index):
        for number, p in enumerate(group, 1):
            name = conversation.name_at(index) + (f".{number}" if number > 1 else "")
            given.append((name, conversation.history(index), p.chosen, p.rejected))
    return given


def chosen(conversation: Conversation) -> Iterator[Draft]:
    """The preferred replies of the pairs, alone."""
    for draft in pairs(conversation):
        if draft.side == PREFERRED:
            yield dataclasses.replace(draft, unit="", side=0)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How conversations become examples. `frozen` names the views that are not differentiated;
    `expected` tells people what a conversation must have."""

    drafts: Callable[[Conversation], Iterator[Draft]]
    frozen: frozenset[str] = frozenset()
    expected: str = INTERACTION
    count_units: Callable[[Conversation], int] = count_interactions  # units to learn from


def _recipe_of_units(drafts: Callable[[Conversation], Iterator[Draft]], expected: str) -> Recipe:
    """A recipe whose units are not the interactions."""

    def count_units(conversation: Conversation) -> int:
        return len({draft.unit or draft.id for draft in drafts(conversation)})

    return Recipe(drafts, expected=expected, count_units=count_units)


_REVISED = f"{INTERACTION}, and the reply to that"
_PAIR = f"{_REVISED}; or a chosen and a rejected reply"
RECIPES = {
    "hindsight": Recipe(hindsight, frozenset({HINDSIGHT})),
    "replies": Recipe(replies),
    "revisions": _recipe_of_units(revisions, _REVISED),
    "pairs": _recipe_of_units(pairs, _PAIR),
    "chosen": _recipe_of_units(chosen, _PAIR),
}
"""By the value of the setting `data.recipe`, where "auto" means the recipe of the objective."""
