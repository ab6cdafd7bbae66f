"""What moderation said of a conversation: fields of WildChat, LMSYS-Chat-1M and others.

`data.moderation` says which fields these are; scores are the worst of all turns, from 0 to 1.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from interact_jax.data.messages import as_float
from interact_jax.data.moderation import CATEGORIES, DETOXIFY, FLAGGED, SCORE
from interact_jax.prepare.filtering import Dropped, Outcome
from interact_jax.prepare.filters.settings import KEEP_OR_DROP, Settings, setting
from interact_jax.schema import Conversation

MARKS = {"toxic": "toxic", "redacted": "redacted", "flagged": FLAGGED}
"""Setting -> field. A record may have `flagged` itself."""


@dataclasses.dataclass(frozen=True)
class Moderation(Settings):
    """Conversations that were marked, or have a high score. Nothing is judged here: a conversation
    that nobody moderated is `unmarked`."""

    name: ClassVar[str] = "moderation"
    toxic: str = setting("drop", "what is marked as toxic", KEEP_OR_DROP)
    flagged: str = setting("drop", "what OpenAI's moderation flagged", KEEP_OR_DROP)
    redacted: str = setting("keep", "what personal data was taken out of", KEEP_OR_DROP)
    most_score: float | None = setting(
        None, "highest score of any category of OpenAI's moderation", least=0, most=1
    )
    most_toxicity: float | None = setting(
        None, "highest score of any kind that Detoxify tells", least=0, most=1
    )
    unmarked: str = setting("keep", "conversations without any such field", KEEP_OR_DROP)

    def __call__(self, conversation: Conversation) -> Outcome:
        meta = conversation.meta
        known = {*MARKS, *MARKS.values(), SCORE, *DETOXIFY}
        if not known & meta.keys():
            return conversation if self.unmarked == "keep" else Dropped("not moderated", "")
        for mark, field in MARKS.items():
            if getattr(self, mark) == "drop" and (_true(meta.get(field)) or _true(meta.get(mark))):
                return Dropped(f"marked as {mark}", str(meta.get(CATEGORIES, "")))
        for names, most in (((SCORE,), self.most_score), (DETOXIFY, self.most_toxicity)):
            for name in names:
                score = as_float(meta.get(name))
                if most is not None and score is not None and score > most:
                    return Dropped(f"{name} over {most}", f"{score:.3g}")
        return conversation


def _true(value: object) -> bool:
    """Whether a field says yes; tables have 1 or a text in place of true."""
    return value is True or value == 1 or str(value).lower() == "true"
