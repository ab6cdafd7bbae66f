"""Examples: what is learned from, as text (`Draft`) and as token ids (`Example`).

An example is a reply y and the contexts in which it is scored, each under the name of a view:

    Draft("c_1", x, y, {"plain": None, "hindsight": "Shorter, please."})

One interaction is one example under self-distillation (two views), one with a single view under
supervised fine-tuning, and two, the two replies of a pair, under preference optimisation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from interact_jax.schema import Message

PREFERRED, REJECTED = 1, -1  # sides of a pair


@dataclasses.dataclass(frozen=True)
class Draft:
    """An example as text. `views` says for each view what its context shows after the history x: a
    follow-up in hindsight, or nothing (None).

    Examples that a loss joins have the same `unit`; they see the same x and are adjacent.
    """

    id: str
    x: Sequence[Message]
    y: Message
    views: Mapping[str, str | None]
    unit: str = ""  # "" = a unit of its own
    side: int = 0  # PREFERRED, REJECTED, or neither
    weight: float = 1.0  # of its unit


@dataclasses.dataclass(frozen=True)
class Target:
    """What is scored: the ids of y with EOS, and what belongs to them."""

    id: str
    y: np.ndarray
    conversation: str = ""
    unit: str = ""
    side: int = 0
    weight: float = 1.0
    known: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Log-probabilities of y from elsewhere, by name: "sampler" where a log holds them."""
    reasoning: str = ""
    """What became of the reasoning of y, as in the summary; "" where there is none."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A target and its contexts as ids, by view."""

    target: Target
    contexts: Mapping[str, np.ndarray]

    def path(self, view: str) -> np.ndarray:
        """The input ids of the sequence in this view: y's last token is only ever a target."""
        return np.concatenate([self.contexts[view], self.target.y[:-1]])


def as_ids(ids: object) -> np.ndarray:
    """Token ids as they are stored: four bytes each."""
    return np.asarray(ids, np.int32)
