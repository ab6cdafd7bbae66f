"""The conversation of a chat as data, and the file that it is kept in.

A transcript is written as a native conversation (docs/data.md), with the ids and log-probabilities
of its replies as they were sampled, and read back by the reader of logs: what the model is shown
and what it learns from are the messages that a run on the file would see.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from pathlib import Path
from typing import Any

from interact_jax import places
from interact_jax.data.formats import FORMATS
from interact_jax.data.native import message_record
from interact_jax.data.records import Loss, Record
from interact_jax.schema import Conversation, InputError, Message

HERE = "this conversation"  # its place in messages
ID_BYTES = 6


def new_id() -> str:
    """A name that no other conversation of a log has."""
    return f"chat-{secrets.token_hex(ID_BYTES)}"


@dataclasses.dataclass(frozen=True)
class Transcript:
    """A conversation: a system message or "", and exchanges, each a user's message and a reply."""

    system: str = ""
    exchanges: tuple[tuple[Message, Message], ...] = ()
    id: str = dataclasses.field(default_factory=new_id)

    def with_exchange(self, user: Message, reply: Message) -> Transcript:
        return dataclasses.replace(self, exchanges=(*self.exchanges, (user, reply)))

    def without_last(self) -> Transcript:
        return dataclasses.replace(self, exchanges=self.exchanges[:-1])

    def record(self, *more: Message) -> dict[str, Any]:
        """The native record, `more` messages at its end."""
        system = [Message("system", self.system)] if self.system else []
        exchanged = [message for exchange in self.exchanges for message in exchange]
        messages = [*system, *exchanged, *more]
        return {"id": self.id, "messages": [message_record(message) for message in messages]}

    def read(self, *more: Message, repair: str = "join") -> Conversation:
        """The conversation as a reader of logs sees it: a reply without text is left out, and the
        messages around it are joined. Raises InputError where `repair` does not allow that."""
        record = Record(self.record(*more), HERE, self.id)
        found = None
        for outcome in FORMATS["native"].read([record], repair):
            if isinstance(outcome, Loss):
                raise InputError(f"{outcome}.")
            if isinstance(outcome, Conversation):
                found = outcome
        assert found is not None, "a record without losses is a conversation"
        return found


class ChatLog:
    """A file of conversations, JSON Lines, of which a chat adds and rewrites its own.

    It is read again before it is written, so other conversations in it stay as they are, those of
    another chat at the same time too.
    """

    def __init__(self, path: str | Path):
        """Raises InputError for what is no such file, or cannot be written."""
        given = f"--log {path}"
        places.check_output(given, path)
        self.path = Path(path)
        is_open = places.descriptor(path) is not None
        if is_open or self.path.suffix == ".gz" or (self.path.exists() and not self.path.is_file()):
            raise InputError(
                f"{given}: it is written anew after every reply, which takes an uncompressed file."
                " Give another path."
            )
        self._lines()

    def keep(self, transcript: Transcript) -> None:
        """Write the conversation as it is now; without an exchange, it is removed."""
        lines = self._lines()
        if transcript.exchanges:
            line = json.dumps(transcript.record(), ensure_ascii=False)
            lines[transcript.id] = line.encode()
        elif lines.pop(transcript.id, None) is None:
            return
        places.write(self.path, b"".join(line + b"\n" for line in lines.values()))

    def _lines(self) -> dict[str, bytes]:
        """All lines but empty ones, as they stand, by the id of the conversation or their number.
        Raises InputError for one that holds no conversation."""
        found: dict[str, bytes] = {}
        if not os.path.exists(self.path):
            return found
        for number, line in enumerate(self.path.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict) or "messages" not in record:
                raise InputError(
                    f"--log {self.path}: line {number} is no conversation, expected "
                    f"{FORMATS['native'].shape} on every line. Give another path."
                )
            name = str(record.get("id", ""))
            found[f"\0{number}" if name in found or not name else name] = line
        return found
