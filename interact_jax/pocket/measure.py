"""How well replies please the users of the pocket world: pure Python on their texts.

requests = held_out_requests(2048, seed=0)
measure(texts, requests, LOGGED_PREFERENCE)
-> {"wanted_styles": 0.44, "correct": 0.97, "readable": 1.0, "all_wanted": 0.04, "replies": 2048}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from interact_jax.pocket import world
from interact_jax.pocket.world import held_out_requests
from interact_jax.schema import InputError

__all__ = ["LOGGED_PREFERENCE", "MAX_NEW_TOKENS", "by_kind", "held_out_requests", "measure"]

LOGGED_PREFERENCE = {"sentence": True, "polite": True, "emoji": True, "question": False}
"""What the users of the shipped logs want: three styles on, one off."""

MAX_NEW_TOKENS = 32  # the longest reply has about 20


def measure(
    texts: Sequence[str], requests: Sequence[world.Request], preference: world.Styles
) -> dict[str, float]:
    """Shares over all replies, one per request, in the same order.

    `wanted_styles`: the share of the styles of the preference that a reply has as wanted, averaged
    over replies; `all_wanted`: replies that have all of them; `correct`: right answers; `readable`:
    replies that the parser can read. An unreadable reply is wrong and has no wanted style. Raises
    InputError for a preference without styles, or if the lengths differ.
    """
    preference = world.check_preference(preference)
    if len(texts) != len(requests) or not texts:
        raise InputError(f"{len(texts)} replies to {len(requests)} requests: expected one each.")
    total = dict.fromkeys(("wanted_styles", "correct", "readable", "all_wanted"), 0.0)
    for text, request in zip(texts, requests, strict=True):
        reply = world.parse(text)
        if reply is None:
            continue
        matching = sum(reply.styles[style] == on for style, on in preference.items())
        total["readable"] += 1
        total["correct"] += reply.answer == request.answer
        total["wanted_styles"] += matching / len(preference)
        total["all_wanted"] += matching == len(preference)
    return {name: count / len(texts) for name, count in total.items()} | {"replies": len(texts)}


def by_kind(texts: Sequence[str], requests: Sequence[world.Request]) -> dict[str, float]:
    """The share of correct answers for every kind of request that occurs."""
    correct: Counter[str] = Counter()
    for text, request in zip(texts, requests, strict=True):
        reply = world.parse(text)
        correct[request.kind] += reply is not None and reply.answer == request.answer
    total = Counter(request.kind for request in requests)
    return {kind: correct[kind] / total[kind] for kind in world.KINDS if total[kind]}
