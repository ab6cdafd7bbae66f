"""From the turns of a dialogue to messages that take turns: what is not clean is mended, or not.

    user "Shorter"  user "about cats"            joined by an empty line
    assistant ""                                 left out, the user's turns around it joined
    system "..." in the middle                   put before the user's next turn
    a turn that cannot be read                   left out, with all up to the user's next turn

Behind what is left out in the last two ways history begins anew (`Conversation.restarts`), so no
interaction is told that is not as it was. How much is mended is the setting `data.repair`; what
cannot be read at all is not its business but that of `data.on_error`.
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
    """Messages and their places in the input (see `schema.Conversation`); what was lost on the way,
    and what was mended."""

    messages: tuple[Message, ...]
    places: tuple[int, ...]
    ends: tuple[int, ...]  # the same of the last that a message is joined of
    restarts: frozenset[int]
    losses: list[Loss]
    notes: list[Note]

    @property
    def moved(self) -> tuple[int, ...] | None:
        """The places, where they are not those of the messages."""
        return None if self.places == tuple(range(len(self.places))) else self.places


def mend(turns: Iterable[Turn], where: str, repair: str = "join") -> Dialogue:
    """A dialogue of these turns. Raises Unclean where something is to be mended and `repair` is
    "stop", or is "drop" and it is the system message, which every interaction contains."""
    mender = _Mender(where, repair)
    for turn in turns:
        mender.add(turn)
    return mender.dialogue()


@dataclasses.dataclass
class _Entry:
    """A message in the making: the messages of the input that it is joined of."""

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
        self._lost = False  # something that cannot be shown: wait for the user's next turn
        self._put_before: list[Message] = []  # that turn: late system messages
        self._between: set[str] = set()  # roles of what said nothing since the last message
        self._dropped = (-3, "")  # index and role of the last turn that was left out

    def add(self, turn: Turn) -> None:
        """The next turn of the input."""
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
            if self._flaw(turn, f"part of kind {kind} left out", "only text is read"):
                return
        says_nothing = not message.content.strip() and not message.fields.get("tool_calls")
        if says_nothing and message.role != "tool":
            self._empty(turn, message)
        elif message.role == "system" and self._begun:
            self._late_system(turn, message)
        else:
            self._place(turn, message)

    def _place(self, turn: Turn, message: Message) -> None:
        if self._dropped == (turn.index - 1, message.role):  # more of what was left out
            self._dropped = turn.index, message.role
            return
        if self._lost and message.role not in ("system", "user"):
            return
        begins = self._lost and message.role == "user"
        last = self._entries[-1] if self._entries and not begins else None
        between, self._between = self._between, set()
        if message.role == "assistant" and "user" in between and (not last or last.role != "user"):
            self._leave_out(turn)  # it answers to nothing
        elif last is None or last.role != message.role or message.role == "tool":
            parts = [*self._before(message), message] if begins else [message]
            self._entries.append(_Entry(parts, turn.index, turn.index, begins and self._begun))
            self._lost &= not begins
        elif between or not self._in_a_row(turn, message):
            last.parts.append(message)
            last.end = turn.index

    def _in_a_row(self, turn: Turn, message: Message) -> bool:
        detail = f"{message.role!r} follows {message.role!r}"
        return self._flaw(turn, "two messages of one role in a row", detail)

    @property
    def _begun(self) -> bool:
        """Whether there is more than a system message."""
        return any(entry.role != "system" for entry in self._entries[:2])

    def _before(self, message: Message) -> list[Message]:
        """Late system messages, as part of the user's."""
        found, self._put_before = self._put_before, []
        return [dataclasses.replace(message, content=late.content) for late in found]

    def _empty(self, turn: Turn, message: Message) -> None:
        detail = f"its text is {reprlib.repr(message.content)}"
        if not self._flaw(turn, f"empty message of the {message.role}", detail):
            self._between.add(message.role)

    def _late_system(self, turn: Turn, message: Message) -> None:
        detail = "history begins anew behind it, and shows it there"
        if not self._flaw(turn, "misplaced system message", detail):
            self._put_before.append(message)
            self._lost = True

    def _flaw(self, turn: Turn, reason: str, detail: str) -> bool:
        """Note what is not clean; whether it is to be left out, and with it what contains it."""
        detail, drop = f"{turn.label}: {detail}", self._repair == "drop"
        of_all = turn.role == "system" and not self._begun  # every interaction contains it
        if self._repair == "stop" or (of_all and drop):
            raise Unclean(reason, detail)
        self._notes.append(Note(f"{LEFT_OUT if drop else ''}{reason}", self._where, detail))
        if drop:
            self._leave_out(turn)
        return drop

    def _leave_out(self, turn: Turn) -> None:
        last = self._entries[-1] if self._entries else None
        if last is not None and last.role == turn.role and last.end == turn.index - 1:
            self._entries.pop()  # it is only a part
        self._lost, self._dropped = True, (turn.index, turn.role)
        self._between.clear()

    def dialogue(self) -> Dialogue:
        messages = tuple(self._joined(entry) for entry in self._entries)
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

    def _joined(self, entry: _Entry) -> Message:
        """One message of several. What a sampler produced is not what it says any more."""
        if len(entry.parts) == 1:
            return entry.parts[0]
        text = "\n\n".join(part.content for part in entry.parts if part.content.strip())
        weight = min(part.weight for part in entry.parts)
        for name in ("token_ids", "fields"):
            if any(getattr(part, name) for part in entry.parts):
                detail = f"message {entry.place} is joined of several"
                self._notes.append(Note(f"{name} of joined messages not used", self._where, detail))
        return Message(entry.role, text, weight=weight)
