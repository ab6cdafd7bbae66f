"""Personal data and keys: taken out, or their conversations left out.

Found are e-mail addresses, phone, card and account numbers (IBAN), IP addresses, and keys, tokens
and passwords (`spans`). NOT found are names, postal addresses, dates of birth, numbers of passports
and insurances, and what somebody tells in words. docs/filters.md measures it.

`datafog` 4.9 is not used. In the sentences of `benchmarks/filters.py`, in five languages, it finds
83 % of e-mail addresses, 50 % of phone and of card numbers, 54 % of IP addresses, no IBAN and no
key; 75 % of what it takes for a phone number is one.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

from interact_jax.prepare.filtering import Changed, Dropped, Outcome
from interact_jax.prepare.filters.keys import random_looking
from interact_jax.prepare.filters.settings import Settings, setting
from interact_jax.prepare.filters.spans import KINDS, Span, find, replace
from interact_jax.schema import Conversation, Message, Preference

IDS_LEFT_OUT = "sampled ids left out of a changed message"
LOGPS_LEFT_OUT = "sampler's log-probabilities left out after a changed message"


@dataclasses.dataclass(frozen=True)
class Personal(Settings):
    """Personal data and keys in messages of any role, what comes with them (calls of tools,
    reasoning, pairs of replies, tools) and texts of the meta data.

    `redact` puts "[e-mail]", "[phone]", "[card]", "[iban]", "[ip]", "[key]" in their place. The ids
    that a sampler produced are no longer those of a changed message, and are left out; so are the
    log-probabilities of replies after it, which are those of another history. A user or an id of a
    conversation that holds such data becomes a digest: the same for the same person, but no
    protection against who can guess it.
    """

    name: ClassVar[str] = "personal"
    action: str = setting(
        "redact", "what happens to conversations with such data", ("redact", "drop")
    )
    kinds: tuple[str, ...] = setting(KINDS, "what is looked for", KINDS)
    entropy: float | None = setting(
        None,
        "bits a character from which on any long word of mixed case and digits is a key as well; "
        "4.2 is a good value",
        least=3,
        most=6,
    )

    def __call__(self, conversation: Conversation) -> Outcome:
        redaction = _Redaction(self)
        changed = redaction.conversation(conversation)
        if not redaction.found:
            return conversation
        if self.action == "drop":
            kinds = ", ".join(kind for kind in KINDS if redaction.found[kind])
            times = ", ".join(f"{redaction.found[k]} x {k}" for k in KINDS if redaction.found[k])
            return Dropped(f"personal data ({kinds})", times)
        return Changed(changed, {**redaction.found, **redaction.left_out})

    def spans(self, text: str) -> list[Span]:
        """All that is found in a text, in its order."""
        found = find(text, self.kinds)
        if self.entropy is None or "key" not in self.kinds:
            return found
        words = [Span(*one) for one in random_looking(text, self.entropy)]
        free = [w for w in words if not any(w.start < s.stop and s.start < w.stop for s in found)]
        return sorted([*found, *free])


class _Redaction:
    """Rewrites one conversation, and counts what it found."""

    def __init__(self, filter: Personal):
        self._filter = filter
        self.found: collections.Counter[str] = collections.Counter()
        self.left_out: collections.Counter[str] = collections.Counter()

    def conversation(self, given: Conversation) -> Conversation:
        tools = self.value(given.tools)
        stale, messages = tools != given.tools, []
        for message in given.messages:
            changed = self.message(message, stale)
            stale = stale or changed is not message
            messages.append(changed)
        pairs = given.preferences
        if pairs is not None:
            pairs = tuple(self._pair(pair, given.messages, tuple(messages)) for pair in pairs)
        return dataclasses.replace(
            given,
            id=self.identity(given.id),
            messages=tuple(messages),
            user=self.identity(given.user),
            meta=self.value(dict(given.meta)),
            preferences=pairs,
            tools=tools,
        )

    def _pair(
        self, pair: Preference, before: tuple[Message, ...], after: tuple[Message, ...]
    ) -> Preference:
        stale = before[: pair.index] != after[: pair.index]
        chosen, rejected = self.message(pair.chosen, stale), self.message(pair.rejected, stale)
        return dataclasses.replace(pair, chosen=chosen, rejected=rejected)

    def message(self, given: Message, stale: bool) -> Message:
        """The message without personal data; itself where there is none and, unless `stale`, where
        what comes before it has not changed either."""
        content, fields = self.text(given.content), self.value(dict(given.fields))
        if content != given.content or fields != given.fields:
            if given.token_ids is not None:
                self.left_out[IDS_LEFT_OUT] += 1
            return dataclasses.replace(
                given,
                content=content,
                fields=fields,
                token_ids=None,
                logps=None,
                sampling_logps=None,
            )
        if stale and (given.logps is not None or given.sampling_logps is not None):
            self.left_out[LOGPS_LEFT_OUT] += 1
            return dataclasses.replace(given, logps=None, sampling_logps=None)
        return given

    def text(self, text: str) -> str:
        spans = self._filter.spans(text)
        self.found.update(span.kind for span in spans)
        return replace(text, spans) if spans else text

    def value(self, value: Any) -> Any:
        """A value of JSON with its texts rewritten; names of fields stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.value, value))
        return value

    def identity(self, name: str) -> str:
        spans = self._filter.spans(name)
        self.found.update(span.kind for span in spans)
        if not spans:
            return name
        return "person-" + hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
