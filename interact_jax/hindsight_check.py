"""Can a model use hindsight at all? Asked before it is trained on what it says in hindsight.

Where a log has the reply y that a user complained about (o) and the one y' that came after, a model
that understands o finds y' likelier over y once it has seen o, and does so for this o rather than
for somebody else's:

    margin(view) = log pi(y' | view) - log pi(y | view)
    gain(o)      = margin(x, o) - margin(x)
    helped       the gain by the pair's own follow-up is larger than that by a shuffled one

A model for which `helped` is not clearly above one half learns noise.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import EncodeSettings, encode
from interact_jax.data.examples import PREFERRED, REJECTED, Draft
from interact_jax.data.recipes import HINDSIGHT, PLAIN, Recipe, revised_replies
from interact_jax.data.tree import GROW, Tree
from interact_jax.models.decoder import Decoder
from interact_jax.schema import Conversation, Interaction, Message
from interact_jax.settings import Setting
from interact_jax.signal import logps_of

log = logging.getLogger(__name__)

SHUFFLED = "shuffled"
VIEWS = (PLAIN, HINDSIGHT, SHUFFLED)
CONFIDENCE = 1.645  # standard errors: one-sided, 95 %
FEWEST = 16  # pairs below which nothing is said

SETTINGS = {
    "check_hindsight": Setting(
        64,
        "number of revised replies on which a run checks, before training, that the model "
        "uses hindsight; 0 = no check",
        least=0,
        free=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class HindsightCheck:
    """Gains are in nats a pair."""

    pairs: int
    relevant: float  # mean gain by the pair's own follow-up
    shuffled: float  # and by that of another conversation
    helped: float  # share of pairs that their own helped more
    error: float  # standard error of `helped`, at one half

    @property
    def usable(self) -> bool | None:
        """Whether the model uses hindsight; None where there are too few pairs to tell."""
        if self.pairs < FEWEST:
            return None
        return self.helped > 0.5 + CONFIDENCE * self.error

    def lines(self) -> list[str]:
        """For people."""
        verdict = {
            True: "the model uses hindsight",
            False: "NO SIGN that the model uses hindsight: training on it may teach noise",
            None: f"too few pairs to tell (at least {FEWEST})",
        }[self.usable]
        if not self.pairs:
            return ["hindsight: no reply after a follow-up is there to check by"]
        return [
            f"hindsight: {verdict}",
            f"  ({self.pairs} revised replies: the follow-up favours them over the first reply by "
            f"{self.relevant:+.2f}",
            f"  nats, one of another conversation by {self.shuffled:+.2f}; their own by more in "
            f"{self.helped:.0%},",
            f"  where chance is 50 % +- {self.error:.0%})",
        ]


def check_hindsight(
    decoder: Decoder,
    params: Any,
    conversations: Sequence[Conversation],
    chat: ChatFormat,
    settings: EncodeSettings,
    mesh: Mesh,
    *,
    most: int = 64,
    seed: int = 0,
    sharing: str = "tree",
    row_tokens: int = 512,
) -> HindsightCheck:
    """Check a model on up to `most` pairs, drawn by `seed`; follow-ups are shuffled among the
    conversations drawn."""
    drafts = _drafts(conversations, most, seed)
    trees = list(_trees(conversations, drafts, chat, settings, sharing))
    if not trees:
        return HindsightCheck(0, 0.0, 0.0, 0.0, 0.5)
    targets = [reply.target for tree in trees for reply in tree.replies]
    logps = logps_of(decoder, params, trees, mesh, VIEWS, sharing=sharing, row_tokens=row_tokens)
    margin: dict[str, dict[str, float]] = collections.defaultdict(lambda: dict.fromkeys(VIEWS, 0.0))
    for target, found in zip(targets, logps, strict=True):
        for view in VIEWS:
            margin[target.unit][view] += target.side * float(found[view].sum())
    gains = np.array([[m[view] - m[PLAIN] for view in VIEWS] for m in margin.values()])
    gains = gains.reshape(-1, len(VIEWS))
    pairs = len(gains)
    _, relevant, shuffled = gains.mean(axis=0)
    # Equal gains, which identical follow-ups give, are half a success.
    helped = float(((gains[:, 1] > gains[:, 2]) + 0.5 * (gains[:, 1] == gains[:, 2])).mean())
    return HindsightCheck(pairs, float(relevant), float(shuffled), helped, 0.5 / math.sqrt(pairs))


def _drafts(
    conversations: Sequence[Conversation], most: int, seed: int
) -> Mapping[str, list[Draft]]:
    """By conversation: both replies of the pairs drawn, each in all views."""
    rng = random.Random(seed)
    order = list(range(len(conversations)))
    rng.shuffle(order)
    chosen: list[tuple[str, Interaction, Message]] = []
    for index in order:
        if len(chosen) >= most:
            break
        # One pair a conversation: those of one are alike, and would look like more than they are.
        pairs = [
            (i, reply)
            for i, reply in revised_replies(conversations[index])
            if reply.content != i.y.content
        ]
        if pairs:
            chosen.append((conversations[index].id, *rng.choice(pairs)))
    found = collections.defaultdict(list)
    for n, (conversation, i, reply) in enumerate(chosen):
        _, other, _ = chosen[(n + 1) % len(chosen)]
        views = {PLAIN: None, HINDSIGHT: i.o.content, SHUFFLED: other.o.content}
        for y, side in ((reply, PREFERRED), (i.y, REJECTED)):
            found[conversation].append(Draft(f"{i.id}{side:+d}", i.x, y, views, i.id, side))
    return found


def _trees(
    conversations: Sequence[Conversation],
    drafts: Mapping[str, list[Draft]],
    chat: ChatFormat,
    settings: EncodeSettings,
    sharing: str,
) -> Iterator[Tree]:
    settings = dataclasses.replace(settings, weigh="", on_error="skip")
    recipe = Recipe(
        lambda conversation: iter(drafts[conversation.id]), frozenset({HINDSIGHT, SHUFFLED})
    )
    for conversation in conversations:
        if conversation.id in drafts:
            for window in encode(conversation, chat, settings, collections.Counter(), recipe):
                yield from GROW[sharing](window, recipe.frozen)
