"""From the turns of a dialogue to messages of alternating roles, mended where necessary.

    user "Shorter"  user "about cats"            joined by an empty line
    assistant ""                                 left out, the user turns around it joined
    system "..." in the middle                   put before the next user turn
    a turn that cannot be read                   left out, with all up to the next user turn

In the last two cases history restarts there (`Conversation.restarts`), so that every interaction is
shown as it happened. The setting `data.repair` says how much is mended; what cannot be read at all
is up to `data.on_error`.
"""

from __future__ import annotations

import collections
import dataclasses
import reprlib
from collections.abc import Iterable

from interact_jax.data.messages import Unclean
from interact_jax.data.records import Loss, Note
from interact_jax.data.turns import Turn
from interact_jax.schema import Message

REPAIR = ("join", "drop", "stop")
LEFT_OUT = "left out: "  # with `drop`, what would have been mended


@dataclasses.dataclass
class Dialogue:
    """Messages and their places in the input (see `schema.Conversation`), losses, and notes on what
    was mended."""

    messages: tuple[Message, ...]
    places: tuple[int, ...]
    ends: tuple[int, ...]  # the place of the last turn of each message
    restarts: frozenset[int]
    losses: list[Loss]
    notes: list[Note]

    @property
    def moved_places(self) -> tuple[int, ...] | None:
        """The places, if they differ from the indices of the messages."""
        return None if self.places == tuple(range(len(self.places))) else self.places


def mend(turns: Iterable[Turn], where: str, repair: str = "join") -> Dialogue:
    """A dialogue of these turns. Raises Unclean where something needs mending and `repair` is
    "stop", or is "drop" and it is the system message, which every interaction contains."""
    mender = _Mender(where, repair)
    for turn in turns:
        mender.add(turn)
    return mender.dialogue()


@dataclasses.dataclass
class _Entry:
    """A message under construction: the messages of the input that are joined to it."""

    parts: list[Message]
    place: int
    end: int
    restarts: bool

    @property
    def role(self) -> str:
        return self.parts[0].role


class _Mender:
    def __init__(self, where: str, repair: str):
        self._where, self._repair = where, repair
        self._entries: list[_Entry] = []
        self._losses: list[Loss] = []
        self._notes: list[Note] = []
        self._unused: collections.Counter[str] = collections.Counter()
        self._first_unused: dict[str, str] = {}
        self._skipping = False  # after something that cannot be shown, until the next user turn
        self._late_systems: list[Message] = []  # system messages to put before that turn
        self._empty_roles: set[str] = set()  # of empty messages since the last message
        self._dropped = (-3, "")  # index and role of the last turn that was left out

    def add(self, turn: Turn) -> None:
        """Add the next turn of the input."""
        for field in turn.unused:
            self._unused[field] += 1
            self._first_unused.setdefault(field, turn.label)
        message = turn.message
        if message is None:
            assert turn.fault is not None
            self._losses.append(Loss(turn.fault.reason, self._where, turn.fault.detail))
            self._leave_out(turn)
            return
        for kind in turn.left_out:
            if self._note_flaw(turn, f"part of kind {kind} left out", "only text is read"):
                return
        says_nothing = not message.content.strip() and not message.fields.get("tool_calls")
        if says_nothing and message.role != "tool":
            self._add_empty(turn, message)
        elif message.role == "system" and self._has_begun:
            self._add_late_system(turn, message)
        else:
            self._add_message(turn, message)

    def _add_message(self, turn: Turn, message: Message) -> None:
        if self._dropped == (turn.index - 1, message.role):  # it continues what was left out
            self._dropped = turn.index, message.role
            return
        if self._skipping and message.role not in ("system", "user"):
            return
        begins = self._skipping and message.role == "user"
        last = self._entries[-1] if self._entries and not begins else None
        between, self._empty_roles = self._empty_roles, set()
        if message.role == "assistant" and "user" in between and (not last or last.role != "user"):
            self._leave_out(turn)  # nothing is left that it answers
        elif last is None or last.role != message.role or message.role == "tool":
            parts = [*self._take_late_systems(message), message] if begins else [message]
            self._entries.append(_Entry(parts, turn.index, turn.index, begins and self._has_begun))
            self._skipping &= not begins
        elif between or not self._note_repeated_role(turn, message):
            last.parts.append(message)
            last.end = turn.index

    def _note_repeated_role(self, turn: Turn, message: Message) -> bool:
        detail = f"{message.role!r} follows {message.role!r}"
        return self._note_flaw(turn, "two messages of one role in a row", detail)

    @property
    def _has_begun(self) -> bool:
        """Whether there is more than a system message."""
        return any(entry.role != "system" for entry in self._entries[:2])

    def _take_late_systems(self, message: Message) -> list[Message]:
        """The late system messages, as parts of the user message."""
        systems, self._late_systems = self._late_systems, []
        return [dataclasses.replace(message, content=system.content) for system in systems]

    def _add_empty(self, turn: Turn, message: Message) -> None:
        detail = f"its text is {reprlib.repr(message.content)}"
        if not self._note_flaw(turn, f"empty message of the {message.role}", detail):
            self._empty_roles.add(message.role)

    def _add_late_system(self, turn: Turn, message: Message) -> None:
        detail = "history restarts after it and shows it there"
        if not self._note_flaw(turn, "misplaced system message", detail):
            self._late_systems.append(message)
            self._skipping = True

    def _note_flaw(self, turn: Turn, reason: str, detail: str) -> bool:
        """Note a flaw; return whether the turn was left out, and with it what contains it."""
        detail, drop = f"{turn.label}: {detail}", self._repair == "drop"
        is_shared = turn.role == "system" and not self._has_begun  # every interaction contains it
        if self._repair == "stop" or (is_shared and drop):
            raise Unclean(reason, detail)
        self._notes.append(Note(f"{LEFT_OUT if drop else ''}{reason}", self._where, detail))
        if drop:
            self._leave_out(turn)
        return drop

    def _leave_out(self, turn: Turn) -> None:
        last = self._entries[-1] if self._entries else None
        if last is not None and last.role == turn.role and last.end == turn.index - 1:
            self._entries.pop()  # the rest of it is left out
        self._skipping, self._dropped = True, (turn.index, turn.role)
        self._empty_roles.clear()

    def dialogue(self) -> Dialogue:
        """The dialogue of the turns so far."""
        messages = tuple(self._join(entry) for entry in self._entries)
        for field, times in self._unused.items():
            label, reason = self._first_unused[field], f"field {reprlib.repr(field)} not used"
            self._notes.append(Note(reason, self._where, label, True, times))
        return Dialogue(
            messages,
            tuple(entry.place for entry in self._entries),
            tuple(entry.end for entry in self._entries),
            frozenset(n for n, entry in enumerate(self._entries) if entry.restarts),
            self._losses,
            self._notes,
        )

    def _join(self, entry: _Entry) -> Message:
        """One message of several parts, without sampled ids, which no longer match its text."""
        if len(entry.parts) == 1:
            return entry.parts[0]
        text = "\n\n".join(part.content for part in entry.parts if part.content.strip())
        weight = min(part.weight for part in entry.parts)
        for name in ("token_ids", "fields"):
            if any(getattr(part, name) for part in entry.parts):
                detail = f"message {entry.place} is joined from several"
                self._notes.append(Note(f"{name} of joined messages not used", self._where, detail))
        return Message(entry.role, text, weight=weight)
