"""Limits on influence: the largest share of a step that one conversation, or one user, may have.

What somebody says often is learned often. A step is a mean over interactions, so whoever writes
half of them moves the model as much as all the others together. The weight of a conversation in a
step is therefore limited to a multiple of that of the median conversation there, and the weight of
a user to a multiple of that of the median user: first in the whole log, then in the step:

    users            a 20   b 15   c 30   d 20   mallory 2000       interactions
    limit 4          a 20   b 15   c 30   d 20   mallory 80         (median 20)

A conversation without a user counts as a user of its own.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
    """Multiples of the median; infinity means off."""

    conversation: float = math.inf
    user: float = math.inf

    @classmethod
    def of(cls, cfg: Any) -> Limits:
        """From the settings of a run."""
        return cls(cfg.limits.conversation, cfg.limits.user)

    def log_factors(self, users_N: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
        """The factor [N] for the weights of each conversation in every step, by the limit on users
        over the whole log. `users_N`: names or numbers; "" or 0 is a user of its own."""
        _, code_N = np.unique(users_N, return_inverse=True)
        alone_N = users_N == users_N.dtype.type()
        code_N[alone_N] = len(code_N) + np.arange(alone_N.sum())
        _, code_N = np.unique(code_N, return_inverse=True)
        of_user = np.bincount(code_N, weights_N)
        total_N = of_user[code_N]
        least = self.user * np.median(of_user)
        factor_N = np.ones(len(total_N))
        np.divide(least, total_N, out=factor_N, where=total_N > least)
        return factor_N

    def step_factors(
        self, members: Sequence[Member], log_factors: Mapping[str, float]
    ) -> dict[str, float]:
        """The factors in a step that draws these members."""
        weight: dict[str, float] = collections.defaultdict(float)
        user_of = {}
        for conversation, user, units in members:
            weight[conversation] += units
            user_of[conversation] = user or f"\0{conversation}"
        # Every user counts once in the median. Otherwise a user with most of the conversations, and
        # short ones, would set it, and shrink the conversations of the others.
        units_of_user: dict[str, list[float]] = collections.defaultdict(list)
        for conversation, units in weight.items():
            units_of_user[user_of[conversation]].append(units)
        median = statistics.median(map(_mean, units_of_user.values()))
        factors = _shrink(weight, self.conversation * median)
        factors = {name: factors[name] * log_factors.get(name, 1.0) for name in weight}
        by_user: dict[str, float] = collections.defaultdict(float)
        for conversation, units in weight.items():
            by_user[user_of[conversation]] += units * factors[conversation]
        user_factors = _shrink(by_user, self.user * statistics.median(by_user.values()))
        return {name: factors[name] * user_factors[user_of[name]] for name in weight}


def _mean(values: Sequence[float]) -> float:
    """Exactly rounded; most users have one conversation in a step, and the mean takes long."""
    return values[0] if len(values) == 1 else statistics.mean(values)


def removed_share(members: Sequence[Member], factors: Mapping[str, float]) -> float:
    """The share of the members' weight that the factors take away."""
    kept = sum(weight * factors[name] for name, _, weight in members)
    return 1 - kept / sum(weight for *_, weight in members)


def _shrink(weight: Mapping[str, float], limit: float) -> dict[str, float]:
    """The factors that bring the weights down to `limit`."""
    return {name: min(1.0, limit / w) if w > 0 else 1.0 for name, w in weight.items()}
