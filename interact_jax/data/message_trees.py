"""Message trees as OpenAssistant has them, nested or flat: every path to a leaf is a dialogue."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from interact_jax.data.dialogues import Outcome
from interact_jax.data.messages import (
    Fault,
    Unclean,
    faults_at,
    find_name,
    require,
    require_name,
    require_object,
)
from interact_jax.data.records import MEND_LINE, NOTHING_WRONG, Loss, Note, Record
from interact_jax.data.turns import read_turn
from interact_jax.schema import Conversation, Message

KNOWN = ("message_id", "user_message_id", "parent_id", "parent_message_id", "replies", "deleted")
META = ("message_tree_id", "tree_state", "lang")
MOST_TURNS = 1 << 24  # in all paths of a tree: a comb of n messages has n * n


def oasst_tree(record: Record, repair: str) -> Iterator[Outcome]:
    """OpenAssistant's trees: a `prompt` with nested `replies`."""
    prompt = require(record.value, "prompt", dict)
    name = find_name(record.value, "message_tree_id") or record.name
    root = dataclasses.replace(record, value=prompt)

    def replies_of(node: Record) -> list[Record]:
        replies = node.value.get("replies") or []
        if not isinstance(replies, list):
            raise Fault("wrong type", f"'replies' is {reprlib.repr(replies)}, expected a list")
        return [dataclasses.replace(record, value=reply) for reply in replies]

    yield from Tree(name, replies_of, repair).paths([root], _meta_of(prompt | record.value))


def oasst_flat(
    items: Iterable[Record | Loss], repair: str, misfit: Callable[[Fault, Record], Loss]
) -> Iterator[Outcome]:
    """OpenAssistant's messages, one per record, each with the id of its parent."""
    nodes: dict[str, Record] = {}
    parents: dict[str, str] = {}  # "" for a first message
    replies: dict[str, list[str]] = {"": []}  # in file order
    for item in items:
        if isinstance(item, Loss):
            yield item
            continue
        try:
            message = require_object(item.value)
            key = "user_message_id" if "user_message_id" in message else "message_id"
            name = require_name(message, key)
            parent = find_name(message, "parent_id", "parent_message_id")
            if name in nodes:
                raise Fault("duplicate id", f"message {name!r} is also at {nodes[name].where}")
        except Fault as fault:
            yield misfit(fault, item)
        else:
            nodes[name] = dataclasses.replace(item, name=name)
            parents[name] = parent
            replies.setdefault(parent, []).append(name)

    def replies_of(node: Record) -> list[Record]:
        return [nodes[reply] for reply in replies.get(node.name, ())]

    for name in replies[""]:
        yield from Tree(name, replies_of, repair).paths([nodes[name]], _meta_of(nodes[name].value))

    pending, rooted = list(replies[""]), set(replies[""])
    while pending:
        children = replies.get(pending.pop(), ())
        rooted.update(children)
        pending += children
    for name, node in nodes.items():
        if name not in rooted:
            parent = parents[name]
            problem = "leads to no first message" if parent in nodes else "is not in the file"
            yield Loss("parent not found", node.where, f"parent {parent!r} of {name!r} {problem}")


def _meta_of(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value[key] for key in META if key in value}


@dataclasses.dataclass(eq=False)
class _Turn:
    """A message in its place in a tree, which answers its parent or continues it."""

    node: Record
    message: Message
    parent: _Turn | None
    continues: bool = False
    emitted: bool = False  # in a path

    def __post_init__(self) -> None:
        parent = self.parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.place: int = parent.place + (not self.continues) if parent else 0  # in its paths

    def whole(self) -> Message:
        """The message, joined to those that it continues."""
        if not self.continues:
            return self.message
        parts, turn = [self.message.content], self
        while turn.continues and turn.parent is not None:
            turn = turn.parent
            parts.append(turn.message.content)
        return Message(self.message.role, "\n".join(reversed(parts)))


class _Path:
    """The path from the root to a turn, as it moves through the tree depth first."""

    def __init__(self) -> None:
        self._turns: list[_Turn] = []  # the last of each message

    def go_to(self, turn: _Turn) -> None:
        """Extend the path to a turn whose parent is on it, or was on the way here."""
        del self._turns[turn.place :]
        if turn.parent is not None and not turn.continues:
            self._turns[-1] = turn.parent
        self._turns.append(turn)

    def emit(self) -> tuple[tuple[Message, ...], frozenset[int]]:
        """Its messages, and the replies that no earlier path had with this follow-up."""
        owned = set()
        for place in reversed(range(len(self._turns))):  # emitted turns are at the beginning
            if self._turns[place].emitted:
                break
            self._turns[place].emitted = True
            owned.add(place - 1)
        messages = tuple(t.whole() if t.continues else t.message for t in self._turns)
        return messages, frozenset(owned - {-1})


@dataclasses.dataclass
class Tree:
    """The messages of one tree; `name` is that of its paths, `replies_of` gives the children, and
    `user` is who spoke, where the format says."""

    name: str
    replies_of: Callable[[Record], list[Record]]
    repair: str
    user: str = ""

    def paths(self, roots: list[Record], meta: Mapping[str, Any]) -> Iterator[Outcome]:
        """Every path from a root to a leaf, depth first in file order, as name.0, name.1, ...

        An interaction belongs to the first path that holds it:

            u1 - y1 - u2 - y2      name.0 owns y1, followed by u2
                   \\- u3 - y3      name.1 owns y1, followed by u3
                        \\- y4      name.2 owns nothing

        A message that is deleted or cannot be used is left out with everything below it.
        """
        leaves, room = 0, MOST_TURNS
        path = _Path()
        pending: list[_Turn] = []
        yield from self._grow(roots, None, pending)
        while pending:
            last = pending.pop()
            path.go_to(last)
            before = len(pending)
            try:
                yield from self._grow(self.replies_of(last.node), last, pending)
            except Fault as fault:
                yield Loss(fault.reason, last.node.where, fault.detail)
            if len(pending) > before:
                continue
            room -= last.depth
            if room < 0:
                detail = f"the paths of tree {self.name!r} have more than {MOST_TURNS:,} messages"
                yield Loss("tree too large", last.node.where, detail)
                return
            messages, owned = path.emit()
            where = last.node.where
            yield Conversation(f"{self.name}.{leaves}", messages, self.user, where, meta, owned)
            leaves += 1

    def _grow(
        self, nodes: list[Record], parent: _Turn | None, pending: list[_Turn]
    ) -> Iterator[Loss | Note]:
        """Put the nodes that can follow a turn in front of the pending turns; report the others.

        Only in trees, consecutive messages of one speaker are parts of one turn, as in
        OpenAssistant's seed data: they are joined and counted.
        """
        turns = []
        for node in nodes:
            label = "message"
            try:
                value = require_object(node.value)
                label = f"message {find_name(value, 'message_id', 'user_message_id')!r}"
                if value.get("deleted"):
                    detail = f"{label} is marked as deleted, and falls with all replies below it"
                    yield Loss("deleted message", node.where, detail, NOTHING_WRONG)
                    continue
                with faults_at(label):
                    turn, notes = self._read_turn(node, parent)
                yield from notes
                turns.append(turn)
            except Unclean as fault:
                remedy = MEND_LINE if self.repair == "stop" else NOTHING_WRONG
                yield Loss(fault.reason, node.where, fault.detail, remedy)
            except Fault as fault:
                yield Loss(fault.reason, node.where, fault.detail)
        pending += reversed(turns)

    def _read_turn(self, node: Record, parent: _Turn | None) -> tuple[_Turn, list[Note]]:
        parsed = read_turn(node.value, 0, "", KNOWN)
        message, notes = parsed.message, []
        assert message is not None
        for kind in parsed.left_out:
            notes.append(
                self._flaw_note(node, f"part of kind {kind} left out", "only text is read")
            )
        if not message.content.strip():
            raise Unclean(f"empty message of the {message.role}", "it falls with all below it")
        if message.role == "system" and parent is not None:
            raise Unclean("misplaced system message", "it falls with all below it")
        continues = parent is not None and parent.message.role == message.role
        if continues:
            detail = "it goes on where its parent, of the same role, ends"
            notes.append(self._flaw_note(node, "joined to its parent", detail))
        for field in parsed.unused:
            reason = f"field {reprlib.repr(field)} not used"
            notes.append(Note(reason, node.where, "of a message", unused=True))
        return _Turn(node, message, parent, continues), notes

    def _flaw_note(self, node: Record, reason: str, detail: str) -> Note:
        if self.repair != "join":
            raise Unclean(reason, detail)
        return Note(reason, node.where, detail)
