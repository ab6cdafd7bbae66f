"""Which conversations each step of a run gets.

    draws = Draws(interactions, cfg.batch, seed=7, epochs=2)
    draws.step((0,))             the numbers of the first step's conversations
    draws.steps((1000,))         all steps from there on
    draws.steps_left((1000,))    how many they are

Where a run is in its data is a `Place`: how many conversations of each data set it has drawn. From
that and the seed everything else follows. Nothing here is as long as an epoch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from interact_jax.data.order import Order
from interact_jax.schema import InputError

Place = tuple[int, ...]
DRAWN = 64  # conversations that are drawn at first; then twice as many, and so on
COUNTED = 1 << 16  # whose interactions are summed at a time


class Course:
    """In which order the conversations of one or several data sets are drawn, without an end.

    Each data set has an order of its own, which does not depend on the others. Of n draws it has
    its share of n to within one: a data set that would get more than its share, rounded up, has to
    wait, and of the others that one is next whose weight is largest for the draws that it would
    then have (the quota method of Balinski and Young):

        weights 3, 1    0 0 0 1  0 0 0 1  ...

    `since` is the place from which shares are counted, where weights have changed on the way. The
    data sets are numbered through: 0, 1, ... of the first, then those of the second.
    """

    def __init__(
        self,
        orders: Sequence[Order],
        weights: Sequence[Fraction] = (Fraction(1),),
        since: Place | None = None,
    ):
        self.orders, self.since = tuple(orders), since or (0,) * len(orders)
        whole = math.lcm(*(weight.denominator for weight in weights))
        self._weights = [int(weight * whole) for weight in weights]
        self._starts = list(itertools.accumulate((order.count for order in orders), initial=0))

    def counted_from(self, since: Place) -> Course:
        """The same, with shares counted from there."""
        return Course(self.orders, [Fraction(weight) for weight in self._weights], since)

    @property
    def start(self) -> Place:
        return (0,) * len(self.orders)

    def take(self, place: Place, count: int) -> np.ndarray:
        """The next `count` conversations from a place on."""
        if len(self.orders) == 1:
            return self.orders[0].take(place[0], count)
        chosen_N = np.array(self._choose(place, count), np.int64)
        taken_N = np.zeros(count, np.int64)
        for n, order in enumerate(self.orders):
            own_N = chosen_N == n
            taken_N[own_N] = self._starts[n] + order.take(place[n], int(own_N.sum()))
        return taken_N

    def after(self, place: Place, taken_N: np.ndarray | Sequence[int]) -> Place:
        """The place after these conversations, which are the next ones of `place`."""
        if len(self.orders) == 1:
            return (place[0] + len(taken_N),)
        number_N = np.searchsorted(self._starts, taken_N, side="right") - 1
        more = np.bincount(number_N, minlength=len(place))
        return tuple(drawn + int(n) for drawn, n in zip(place, more, strict=True))

    def rest(self, place: Place, end: int | None = None) -> list[Iterator[int]]:
        """The conversations from there on, by data set, each with the numbers that they have in it;
        up to the `end`-th where there is one data set and the run has an end."""
        return [
            map(order.__getitem__, itertools.count(drawn) if end is None else range(drawn, end))
            for order, drawn in zip(self.orders, place, strict=True)
        ]

    def _choose(self, place: Place, count: int) -> list[int]:
        """The data set of each of the next `count` draws. In whole numbers, so exactly."""
        weights, whole = self._weights, sum(self._weights)
        drawn = [now - then for now, then in zip(place, self.since, strict=True)]
        chosen = []
        for n in range(sum(drawn) + 1, sum(drawn) + 1 + count):
            best = -1
            for i, weight in enumerate(weights):
                if drawn[i] * whole < weight * n and (
                    best < 0 or weight * (drawn[best] + 1) > weights[best] * (drawn[i] + 1)
                ):
                    best = i
            drawn[best] += 1
            chosen.append(best)
        return chosen


class Draws:
    """Cuts a course into steps: one begins where the previous one ended."""

    def __init__(
        self,
        interactions: Sequence[int] | np.ndarray,
        batch: Any,
        seed: int,
        epochs: float = 0,
        course: Course | None = None,
    ):
        """`interactions` of each conversation; `batch` has `conversations` and `interactions`, one
        of them 0; `epochs=0` means no end; `course` is that of a mixture.

        Raises InputError where interactions decide, and there are none.
        """
        self.interactions, self.batch = np.asarray(interactions), batch
        count = len(self.interactions)
        if count and not batch.conversations and not self.interactions.any():
            raise InputError(
                f"none of the {count:,} conversations has an interaction, of which a step gets "
                f"batch.interactions={batch.interactions}. Set batch.conversations instead, and "
                "batch.interactions=0."
            )
        self.course = course or Course([Order(count, seed)])
        # Conversations of the whole run, at least one.
        self.total = max(1, round(epochs * count)) if epochs else None

    def counted_from(self, since: Place) -> Draws:
        """The same, with the shares of a mixture counted from there."""
        return Draws(self.interactions, self.batch, 0, course=self.course.counted_from(since))

    def step(self, place: Place | None = None, beyond: bool = False) -> list[int]:
        """The conversations of the step from a place on (by default, the first); none after the
        end, except with `beyond`."""
        place = self.course.start if place is None else place
        left = math.inf if self.total is None or beyond else self.total - sum(place)
        whole = self.batch.conversations or self.batch.interactions
        parts, so_far, size = [np.zeros(0, np.int64)], 0, DRAWN
        while so_far < whole and left > 0:
            part_N = self.course.take(place, int(min(size, left)))
            counted_N = np.ones_like(part_N)
            if not self.batch.conversations:
                counted_N = self.interactions[part_N]
            ends_N = np.cumsum(counted_N, dtype=np.int64)
            used = min(len(part_N), int(np.searchsorted(ends_N, whole - so_far)) + 1)
            parts.append(part_N[:used])
            place, left = self.course.after(place, part_N[:used]), left - used
            so_far, size = so_far + int(ends_N[used - 1]), min(2 * size, COUNTED)
        return np.concatenate(parts).tolist()

    def steps(self, place: Place | None = None) -> Iterator[list[int]]:
        """All steps from there on; the last one may be smaller."""
        place = self.course.start if place is None else place
        while indices := self.step(place):
            yield indices
            place = self.course.after(place, indices)

    def steps_left(self, place: Place) -> int:
        """How many steps there are from there on, of a single data set and with an end."""
        assert self.total is not None, "a run without an end"
        left = max(0, self.total - sum(place))
        if self.batch.conversations:
            return -(-left // self.batch.conversations)
        steps, begun = 0, 0  # interactions of a step that an earlier piece began
        is_begun = False
        for start in range(self.total - left, self.total, COUNTED):
            taken_N = self.course.take((start,), min(COUNTED, self.total - start))
            ends_N = np.cumsum(self.interactions[taken_N], dtype=np.int64)
            # Where each step ends that begins behind a conversation, and the one that was begun.
            next_N = np.searchsorted(ends_N, ends_N + self.batch.interactions).tolist()
            at, end = int(np.searchsorted(ends_N, self.batch.interactions - begun)), -1
            while at < len(next_N):
                steps, end, at = steps + 1, at, next_N[at]
            begun = int(ends_N[-1]) - (int(ends_N[end]) if end >= 0 else -begun)
            is_begun = end + 1 < len(next_N)
        return steps + is_begun

    def times(self, place: Place) -> np.ndarray:
        """How often each conversation of a single data set has been drawn: every epoch has each
        once."""
        (drawn,), count = place, len(self.interactions)
        epochs, rest = divmod(drawn, count)
        last_N = self.course.take((drawn - rest,), rest)
        return epochs + np.bincount(last_N, minlength=count)
