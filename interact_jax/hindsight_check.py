"""Can a model use hindsight at all? Checked before it is trained on its own hindsight.

Where a log has a reply y that a user complained about (o) and the reply y' that came after, a model
that understands o prefers y' over y more strongly once it has seen o, and does so for this o rather
than for somebody else's:

    margin(view) = log pi(y' | view) - log pi(y | view)
    gain(o)      = margin(x, o) - margin(x)
    helped       the gain from the pair's own follow-up is larger than that from a shuffled one

A model for which `helped` is not clearly above one half would learn noise.
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
from interact_jax.printable import count
from interact_jax.schema import Conversation, Interaction, Message
from interact_jax.settings import Setting
from interact_jax.signal import logps_of

log = logging.getLogger(__name__)

SHUFFLED = "shuffled"
VIEWS = (PLAIN, HINDSIGHT, SHUFFLED)
CONFIDENCE = 1.645  # standard errors: one-sided, 95 %
FEWEST = 16  # with fewer pairs, there is no verdict

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
    """Gains are in nats per pair."""

    pairs: int
    relevant: float  # mean gain from the pair's own follow-up
    shuffled: float  # and from that of another conversation
    helped: float  # share of pairs with a larger gain from their own
    error: float  # standard error of `helped`, at one half

    @property
    def usable(self) -> bool | None:
        """Whether the model uses hindsight; None where there are too few pairs to tell."""
        if self.pairs < FEWEST:
            return None
        return self.helped > 0.5 + CONFIDENCE * self.error

    def lines(self) -> list[str]:
        """The result as text."""
        verdict = {
            True: "the model uses hindsight",
            False: "NO SIGN that the model uses hindsight: training on it may teach noise",
            None: f"too few pairs to tell (at least {FEWEST})",
        }[self.usable]
        if not self.pairs:
            return ["hindsight: there are no replies after a follow-up to check with"]
        return [
            f"hindsight: {verdict}",
            f"  ({count(self.pairs, 'revised reply', 'revised replies')}: with the user's own "
            f"follow-up the revised reply gains {self.relevant:.2f} nats",
            f"  on the first one, with somebody else's {self.shuffled:.2f}; it gains more with the "
            f"user's own in {self.helped:.0%}",
            f"  of the pairs, where chance is 50% ± {self.error:.0%})",
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
    """Check a model on up to `most` pairs, drawn with `seed`; follow-ups are shuffled among the
    drawn conversations."""
    drafts = _drafts(conversations, most, seed)
    trees = list(_trees(conversations, drafts, chat, settings, sharing))
    if not trees:
        return HindsightCheck(0, 0.0, 0.0, 0.0, 0.5)
    targets = [reply.target for tree in trees for reply in tree.replies]
    logps = logps_of(decoder, params, trees, mesh, VIEWS, sharing=sharing, row_tokens=row_tokens)
    margin: dict[str, dict[str, float]] = collections.defaultdict(lambda: dict.fromkeys(VIEWS, 0.0))
    for target, by_view in zip(targets, logps, strict=True):
        for view in VIEWS:
            margin[target.unit][view] += target.side * float(by_view[view].sum())
    gains = np.array([[m[view] - m[PLAIN] for view in VIEWS] for m in margin.values()])
    gains = gains.reshape(-1, len(VIEWS))
    pairs = len(gains)
    _, relevant, shuffled = gains.mean(axis=0)
    # Equal gains, as from identical follow-ups, count as half a success.
    helped = float(((gains[:, 1] > gains[:, 2]) + 0.5 * (gains[:, 1] == gains[:, 2])).mean())
    return HindsightCheck(pairs, float(relevant), float(shuffled), helped, 0.5 / math.sqrt(pairs))


def _drafts(
    conversations: Sequence[Conversation], most: int, seed: int
) -> Mapping[str, list[Draft]]:
    """By conversation: both replies of the drawn pairs, each in all views."""
    rng = random.Random(seed)
    order = list(range(len(conversations)))
    rng.shuffle(order)
    chosen: list[tuple[str, Interaction, Message]] = []
    for index in order:
        if len(chosen) >= most:
            break
        # One pair per conversation: pairs of the same conversation are not independent.
        pairs = [
            (i, reply)
            for i, reply in revised_replies(conversations[index])
            if reply.content != i.y.content
        ]
        if pairs:
            chosen.append((conversations[index].id, *rng.choice(pairs)))
    drafts = collections.defaultdict(list)
    for n, (conversation, i, reply) in enumerate(chosen):
        _, other, _ = chosen[(n + 1) % len(chosen)]
        views = {PLAIN: None, HINDSIGHT: i.o.content, SHUFFLED: other.o.content}
        for y, side in ((reply, PREFERRED), (i.y, REJECTED)):
            drafts[conversation].append(Draft(f"{i.id}{side:+d}", i.x, y, views, i.id, side))
    return drafts


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
