"""Conversations to token ids: which history each interaction sees, and what is lost on the way.

`conversation` history keeps the whole conversation up to `max_length` tokens. Where it is longer
the window hops: the oldest turns go until half of `max_length` is left, the system message stays,
and the new window starts at a user turn. Student and teacher see the same window, and the
interactions of one window share their prefix. `reference` history is that of the paper's code: the
last 5 messages, x and (x, o) each cut on the left at 2,048 tokens.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from interact_jax.data.chat import ChatFormat
from interact_jax.schema import Conversation, InputError, Interaction, Message

REFERENCE_MESSAGES = 5  # messages of history that the paper's code keeps
REFERENCE_CONTEXT = 2048  # tokens of x, and of (x, o)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The token ids of one interaction: plain context x, hindsight context xo, reply y with EOS."""

    id: str
    x: list[int]
    xo: list[int]
    y: list[int]


@dataclasses.dataclass(frozen=True)
class EncodeSettings:
    """How conversations become ids; the fields are the settings `data.*` of the same names."""

    history: str = "conversation"
    max_length: int = 4096  # tokens of the longest sequence, reply included
    max_reply: int = 2048  # tokens of y before it is cut
    special_tokens: str = "drop"
    on_error: str = "stop"
    ignore_first: int = 0  # tokens of y that the objective does not count

    @classmethod
    def of(cls, cfg: Any) -> EncodeSettings:
        """Those of a run's settings."""
        names = (field.name for field in dataclasses.fields(cls))
        values = {name: cfg.data[name] for name in names if name != "ignore_first"}
        return cls(**values, ignore_first=cfg.objective.ignore_first)


Counts = collections.Counter[str]
SPECIAL_TOKENS = ("drop", "keep", "stop")


def encode(
    conversation: Conversation, chat: ChatFormat, settings: EncodeSettings, counts: Counts
) -> list[list[Encoded]]:
    """The interactions of a conversation, grouped by history window.

    `counts` collects what was lost or cut, by reason. Raises InputError, with the conversation's
    file and line, where the template refuses it and `on_error` is "stop".
    """
    if settings.special_tokens != "keep" and (found := _special_token(conversation, chat)):
        if settings.special_tokens == "stop":
            raise InputError(
                f"{conversation.source or conversation.id}: a message holds {found!r}, which the "
                "tokenizer reads as a special token. Mend it, or set data.special_tokens=drop to "
                "drop such conversations, or keep to tokenise them as they are."
            )
        counts["conversations dropped: text of a special token in a message"] += 1
        return []
    if (beyond := _beyond_vocabulary(conversation, chat)) is not None:
        if settings.on_error == "stop":
            raise InputError(
                f"{conversation.source or conversation.id}: token_ids hold {beyond}, but the "
                f"tokenizer has {len(chat.tokenizer)} tokens: they are of another model. Take "
                "them out, or set data.on_error=skip to drop such conversations."
            )
        counts["conversations dropped: token_ids that the tokenizer does not have"] += 1
        return []
    windows = WINDOWS[settings.history]
    try:
        kept = []
        for window in windows(conversation, chat, settings, counts):
            kept.append([e for e in window if _counted(e, settings, counts)])
    except InputError as error:
        if settings.on_error == "stop":
            where = conversation.source or conversation.id
            raise InputError(
                f"{where}: {error} Mend the conversation, or set data.on_error=skip to drop such "
                "conversations."
            ) from error
        counts["conversations dropped: refused by the chat template"] += 1
        return []
    return [window for window in kept if window]


def _special_token(conversation: Conversation, chat: ChatFormat) -> str | None:
    found = (chat.special_token_in(message.content) for message in conversation.messages)
    return next((token for token in found if token), None)


def _beyond_vocabulary(conversation: Conversation, chat: ChatFormat) -> int | None:
    ids = [i for message in conversation.messages for i in message.token_ids or ()]
    return max(ids) if ids and max(ids) >= len(chat.tokenizer) else None


def _counted(encoded: Encoded, settings: EncodeSettings, counts: Counts) -> bool:
    if len(encoded.y) > settings.ignore_first:
        return True
    counts["interactions dropped: no counted token in the reply"] += 1
    return False


def _hopping_windows(
    conversation: Conversation, chat: ChatFormat, settings: EncodeSettings, counts: Counts
) -> list[list[Encoded]]:
    system = conversation.messages[:1] if conversation.messages[0].role == "system" else ()
    start, windows, window = len(system), [], []
    for interaction in conversation.interactions():
        encoded = _encode(interaction, system + interaction.x[start:], chat, settings, counts)
        if _length(encoded) > settings.max_length:
            user_turns = [
                i for i in range(start + 1, len(interaction.x)) if interaction.x[i].role == "user"
            ]
            for hop in user_turns:
                start = hop
                encoded = _encode(interaction, system + interaction.x[hop:], chat, settings, None)
                if _length(encoded) <= settings.max_length // 2:
                    break
            if _length(encoded) > settings.max_length:
                counts["interactions dropped: longer than data.max_length by themselves"] += 1
                continue
            counts["windows hopped: the oldest turns of a long conversation cut"] += 1
            windows.append(window)
            window = []
        window.append(encoded)
    return [*windows, window]


def _reference_windows(
    conversation: Conversation, chat: ChatFormat, settings: EncodeSettings, counts: Counts
) -> list[list[Encoded]]:
    window = []
    for interaction in conversation.interactions():
        x = interaction.x[-REFERENCE_MESSAGES:]
        while x[0].role != "user":  # history starts with a user turn
            x = x[1:]
        whole = _encode(interaction, x, chat, settings, counts)
        for name, ids in (("x", whole.x), ("(x, o)", whole.xo)):
            if len(ids) > REFERENCE_CONTEXT:
                counts[f"contexts {name} cut on the left at {REFERENCE_CONTEXT} tokens"] += 1
        x_ids, xo_ids = whole.x[-REFERENCE_CONTEXT:], whole.xo[-REFERENCE_CONTEXT:]
        window.append(Encoded(whole.id, x_ids, xo_ids, whole.y))
    return [window]


WINDOWS = {"conversation": _hopping_windows, "reference": _reference_windows}
"""How much history an interaction sees, by the name of the setting `data.history`."""


def _encode(
    interaction: Interaction,
    x: Sequence[Message],
    chat: ChatFormat,
    settings: EncodeSettings,
    counts: Counts | None,
) -> Encoded:
    text = chat.render(x)
    x_ids = chat.encode(text)
    xo_ids = chat.prompt(x, hindsight=interaction.o.content)
    y_ids = chat.reply(interaction.y, text, x_ids)
    if len(y_ids) > settings.max_reply:
        y_ids = y_ids[: settings.max_reply]
        if counts is not None:
            counts["replies cut at data.max_reply, their EOS lost"] += 1
    return Encoded(interaction.id, x_ids, xo_ids, y_ids)


def _length(encoded: Encoded) -> int:
    return max(len(encoded.x), len(encoded.xo)) + len(encoded.y)
