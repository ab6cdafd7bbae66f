"""Limits on influence: how much of a step one conversation, or one user, may be.

What somebody says often is learned often. A step is a mean over interactions, so whoever writes
half of them moves the model as much as all the others together. The weight of a conversation
in a step is therefore at most so many times that of the median one there, and that of a user at
most so many times the median user's, in the whole log and, of what is left, in the step:

    users            a 20   b 15   c 30   d 20   mallory 2000       interactions
    limit 4          a 20   b 15   c 30   d 20   mallory 80         (median 20)

A conversation without a user is a user of its own.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from interact_jax.settings import Setting

SETTINGS = {
    "limits.conversation": Setting(
        8.0,
        "largest weight of a conversation in a step, in multiples of the median "
        "conversation's; inf = off",
        above=0,
        before="inf",
    ),
    "limits.user": Setting(
        4.0,
        "largest weight of a user in a step, in multiples of the median user's; inf = off",
        above=0,
        before="inf",
    ),
}


Member = tuple[str, str, float]  # conversation, user or "", weight


@dataclasses.dataclass(frozen=True)
class Limits:
    """Multiples of the median; infinity is off."""

    conversation: float = math.inf
    user: float = math.inf

    @classmethod
    def of(cls, cfg: Any) -> Limits:
        """Those of a run's settings."""
        return cls(cfg.limits.conversation, cfg.limits.user)

    def of_log(self, members: Sequence[Member]) -> dict[str, float]:
        """What to multiply the weight of each conversation's examples with in every step, by the
        limit on users over the whole log."""
        return dataclasses.replace(self, conversation=math.inf).of_step(members, {})

    def of_step(self, members: Sequence[Member], of_log: Mapping[str, float]) -> dict[str, float]:
        """What to multiply it with in a step that draws these members."""
        weight: dict[str, float] = collections.defaultdict(float)
        user_of = {}
        for conversation, user, units in members:
            weight[conversation] += units
            user_of[conversation] = user or f"\0{conversation}"
        # Every user has one voice in what a usual conversation is: who brings most of them, and
        # short ones, would have the median, and shrink those of the others.
        talks: dict[str, list[float]] = collections.defaultdict(list)
        for conversation, units in weight.items():
            talks[user_of[conversation]].append(units)
        usual = statistics.median(map(statistics.mean, talks.values()))
        of_one = _shrink(weight, self.conversation * usual)
        factors = {name: of_one[name] * of_log.get(name, 1.0) for name in weight}
        by_user: dict[str, float] = collections.defaultdict(float)
        for conversation, units in weight.items():
            by_user[user_of[conversation]] += units * factors[conversation]
        of_user = _shrink(by_user, self.user * statistics.median(by_user.values()))
        return {name: factors[name] * of_user[user_of[name]] for name in weight}


def _shrink(weight: Mapping[str, float], most: float) -> dict[str, float]:
    return {name: min(1.0, most / w) if w > 0 else 1.0 for name, w in weight.items()}
