"""Recipes: what a conversation is learned from. A new one is a function here and an entry below.

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
ALONE: Mapping[str, str | None] = {PLAIN: None}


def _draft(
    name: str, x: Sequence[Message], y: Message, views: Mapping[str, str | None] = ALONE
) -> Draft:
    return Draft(name, x, y, views, weight=y.weight)


def hindsight(conversation: Conversation) -> Iterator[Draft]:
    """Every interaction (x, y, o): y without and with o in view."""
    for i in conversation.interactions():
        yield _draft(i.id, i.x, i.y, {PLAIN: None, HINDSIGHT: i.o.content})


def replies(conversation: Conversation) -> Iterator[Draft]:
    """The logged reply of every interaction."""
    for i in conversation.interactions():
        yield _draft(i.id, i.x, i.y)


def revised(conversation: Conversation) -> Iterator[tuple[Interaction, Message]]:
    """Every interaction whose follow-up was answered, and that answer: the revised reply."""
    places = (index for _, index in conversation.replies())
    for i, index in zip(conversation.interactions(), places, strict=True):
        reply = next(iter(conversation.messages[index + 2 : index + 3]), None)
        if reply is not None and reply.role == "assistant" and reply.content:
            yield i, reply


def revisions(conversation: Conversation) -> Iterator[Draft]:
    """The reply that came after the complaint, as the answer to what was asked before it."""
    for i, reply in revised(conversation):
        yield _draft(i.id, i.x, reply)


def pairs(conversation: Conversation) -> Iterator[Draft]:
    """Preferred against rejected: as the data says; where it says nothing, the revised reply
    against the one that was complained about."""
    if conversation.preferences is None:
        found: Iterable[tuple[str, Sequence[Message], Message, Message]] = (
            (i.id, i.x, reply, i.y) for i, reply in revised(conversation)
        )
    else:
        found = _said(conversation.preferences, conversation)
    for name, x, chosen, rejected in found:
        better = _draft(f"{name}+", x, chosen)
        yield dataclasses.replace(better, unit=name, side=PREFERRED)
        worse = dataclasses.replace(better, id=f"{name}-", y=rejected)
        yield dataclasses.replace(worse, unit=name, side=REJECTED)


def _said(
    preferences: Sequence[Preference], conversation: Conversation
) -> list[tuple[str, Sequence[Message], Message, Message]]:
    """What the data says of two replies: (name, x, chosen, rejected), in the order of the
    dialogue; a second pair of one history is named "c_3.2"."""
    ordered = sorted(preferences, key=lambda p: p.index)
    found: list[tuple[str, Sequence[Message], Message, Message]] = []
    for index, of_one in itertools.groupby(ordered, key=lambda p: p.index):
        for number, p in enumerate(of_one, 1):
            name = conversation.name_at(index) + (f".{number}" if number > 1 else "")
            found.append((name, conversation.history(index), p.chosen, p.rejected))
    return found


def chosen(conversation: Conversation) -> Iterator[Draft]:
    """The preferred replies of those pairs, alone."""
    for draft in pairs(conversation):
        if draft.side == PREFERRED:
            yield dataclasses.replace(draft, unit="", side=0)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How conversations become examples. `frozen` names the views that are not differentiated;
    `expected` says for people what a conversation must have."""

    drafts: Callable[[Conversation], Iterator[Draft]]
    frozen: frozenset[str] = frozenset()
    expected: str = INTERACTION
    units: Callable[[Conversation], int] = count_interactions  # what there is to learn from


def _over(drafts: Callable[[Conversation], Iterator[Draft]], expected: str) -> Recipe:
    """A recipe that does not make a unit of every interaction."""

    def units(conversation: Conversation) -> int:
        return len({draft.unit or draft.id for draft in drafts(conversation)})

    return Recipe(drafts, expected=expected, units=units)


_REVISED = f"{INTERACTION}, and the reply to that"
_PAIR = f"{_REVISED}; or a chosen and a rejected reply"
RECIPES = {
    "hindsight": Recipe(hindsight, frozenset({HINDSIGHT})),
    "replies": Recipe(replies),
    "revisions": _over(revisions, _REVISED),
    "pairs": _over(pairs, _PAIR),
    "chosen": _over(chosen, _PAIR),
}
"""By the name of the setting `data.recipe`; "auto" there is the one of the objective."""
