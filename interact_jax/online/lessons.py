"""From played conversations to token trees: the very ids that were sampled, after the very prompts.

Nothing that was sampled is encoded again: y has the engine's ids, EOS included if there was one,
and its context is the prompt that it was drawn after. Only the follow-up is new text.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from interact_jax.data import weighing
from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import TOO_LONG, Counts, Unit
from interact_jax.data.examples import Draft, Example, Target, as_ids
from interact_jax.data.recipes import RECIPES
from interact_jax.data.tokenise import Tokenised
from interact_jax.data.tree import GROW
from interact_jax.known import SAMPLER
from interact_jax.schema import Conversation

RECIPE = "hindsight"
SPECIAL = "interactions dropped: text of a special token in the follow-up"
UNCOUNTED = "interactions dropped: no counted token in the reply"
WEIGHTLESS = "interactions left out: weight 0"


@dataclasses.dataclass(frozen=True)
class Lessons:
    """How a conversation becomes trees: what was sampled is learned, and not the assistant's
    messages of its prompt. Sequences have at most `room` tokens, `ignore_first` tokens of each
    reply do not count, and `weigh` is the setting `data.weigh`."""

    chat: ChatFormat
    room: int
    sharing: str
    ignore_first: int = 0
    weigh: str = ""

    def __call__(self, conversation: Conversation) -> Tokenised:
        counts: Counts = collections.Counter()
        sampled = [n for n, m in enumerate(conversation.messages) if m.token_ids is not None]
        conversation = dataclasses.replace(conversation, owned=frozenset(sampled))
        recipe, units = RECIPES[RECIPE], list[Unit]()
        for draft in recipe.drafts(conversation):
            weight = weighing.weight_of(self.weigh, conversation, draft)
            example = self._example(dataclasses.replace(draft, weight=weight), conversation)
            if reason := self._fault(draft, example):
                counts[reason] += 1
            else:
                units.append([example])
        trees = GROW[self.sharing](units, recipe.frozen) if units else []
        return Tokenised(list(trees), len(units), counts)

    def _example(self, draft: Draft, conversation: Conversation) -> Example:
        kind = self.chat.prompt_kind
        contexts = {
            view: as_ids(self.chat.prompt(draft.x, o, kind=kind)) for view, o in draft.views.items()
        }
        y = draft.y
        assert y.token_ids is not None, "replies are sampled"
        known = {} if y.logps is None else {SAMPLER: np.asarray(y.logps, np.float32)}
        target = Target(
            draft.id, as_ids(y.token_ids), conversation.id, draft.id, 0, draft.weight, known
        )
        return Example(target, contexts)

    def _fault(self, draft: Draft, example: Example) -> str:
        """Why it is not learned; "" if it is."""
        target = example.target
        longest = max(map(len, example.contexts.values())) + len(target.y)
        shown = (o for o in draft.views.values() if o is not None)
        if longest > self.room:
            return TOO_LONG
        if any(self.chat.special_token_in(o) for o in shown):
            return SPECIAL
        if len(target.y) <= self.ignore_first:
            return UNCOUNTED
        return "" if target.weight > 0 else WEIGHTLESS
