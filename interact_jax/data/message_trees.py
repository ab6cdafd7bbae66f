"""Message trees as OpenAssistant has them, nested or flat: every path to a leaf is a dialogue."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from interact_jax.data.dialogues import Found
from interact_jax.data.messages import Fault, Unclean, an_object, find_name, need, need_name, within
from interact_jax.data.records import MEND_LINE, NOTHING_WRONG, Loss, Note, Record
from interact_jax.data.turns import read_turn
from interact_jax.schema import Conversation, Message

KNOWN = ("message_id", "user_message_id", "parent_id", "parent_message_id", "replies", "deleted")
META = ("message_tree_id", "tree_state", "lang")
MOST_TURNS = 1 << 24  # in all paths of a tree: a comb of n messages has n * n of them


def oasst_tree(record: Record, repair: str) -> Iterator[Found]:
    """OpenAssistant's trees: a `prompt` with nested `replies`."""
    prompt = need(record.value, "prompt", dict)
    name = find_name(record.value, "message_tree_id") or record.name
    root = dataclasses.replace(record, value=prompt)

    def replies_of(node: Record) -> list[Record]:
        replies = node.value.get("replies") or []
        if not isinstance(replies, list):
            raise Fault("wrong type", f"'replies' is {reprlib.repr(replies)}, expected a list")
        return [dataclasses.replace(record, value=reply) for reply in replies]

    yield from _Tree(name, replies_of, repair).paths(root, prompt | record.value)


def oasst_flat(
    items: Iterable[Record | Loss], repair: str, misfit: Callable[[Fault, Record], Loss]
) -> Iterator[Found]:
    """OpenAssistant's messages, one a record, each with the id of its parent."""
    nodes: dict[str, Record] = {}
    parents: dict[str, str] = {}  # "" where there is none: a first message
    replies: dict[str, list[str]] = {"": []}  # in file order
    for item in items:
        if isinstance(item, Loss):
            yield item
            continue
        try:
            message = an_object(item.value)
            key = "user_message_id" if "user_message_id" in message else "message_id"
            name = need_name(message, key)
            parent = find_name(message, "parent_id", "parent_message_id")
            if name in nodes:
                raise Fault("duplicate id", f"message {name!r} is at {nodes[name].where} too")
        except Fault as fault:
            yield misfit(fault, item)
        else:
            nodes[name] = dataclasses.replace(item, name=name)
            parents[name] = parent
            replies.setdefault(parent, []).append(name)

    def replies_of(node: Record) -> list[Record]:
        return [nodes[reply] for reply in replies.get(node.name, ())]

    for name in replies[""]:
        yield from _Tree(name, replies_of, repair).paths(nodes[name], nodes[name].value)

    waiting, rooted = list(replies[""]), set(replies[""])
    while waiting:
        below = replies.get(waiting.pop(), ())
        rooted.update(below)
        waiting += below
    for name, node in nodes.items():
        if name not in rooted:
            parent = parents[name]
            what = "leads to no first message" if parent in nodes else "is not in the file"
            yield Loss("parent not found", node.where, f"parent {parent!r} of {name!r} {what}")


@dataclasses.dataclass(eq=False)
class _Turn:
    """A message in its place in a tree, below another or going on where that one ends."""

    node: Record
    message: Message
    above: _Turn | None
    goes_on: bool = False
    told: bool = False  # stands in a path that was handed out

    def __post_init__(self) -> None:
        above = self.above
        self.depth: int = above.depth + 1 if above else 0
        self.place: int = above.place + (not self.goes_on) if above else 0  # in its paths

    def whole(self) -> Message:
        """With what it goes on from."""
        if not self.goes_on:
            return self.message
        parts, turn = [self.message.content], self
        while turn.goes_on and turn.above is not None:
            turn = turn.above
            parts.append(turn.message.content)
        return Message(self.message.role, "\n".join(reversed(parts)))


class _Path:
    """From the root to a turn, which moves through the tree depth first."""

    def __init__(self) -> None:
        self._turns: list[_Turn] = []  # the last of each message

    def go_to(self, turn: _Turn) -> None:
        """A turn below one that the path leads to, or has led to on the way here."""
        del self._turns[turn.place :]
        if turn.above is not None and not turn.goes_on:
            self._turns[-1] = turn.above
        self._turns.append(turn)

    def told(self) -> tuple[tuple[Message, ...], frozenset[int]]:
        """Its messages, and the replies that no path before it had with this follow-up."""
        owned = set()
        for place in reversed(range(len(self._turns))):  # what was told stands at the beginning
            if self._turns[place].told:
                break
            self._turns[place].told = True
            owned.add(place - 1)
        messages = tuple(t.whole() if t.goes_on else t.message for t in self._turns)
        return messages, frozenset(owned - {-1})


@dataclasses.dataclass
class _Tree:
    """How the messages of one tree hang together, and under which name its paths are told."""

    name: str
    replies_of: Callable[[Record], list[Record]]
    repair: str

    def paths(self, root: Record, about: Mapping[str, Any]) -> Iterator[Found]:
        """Every path from the root to a leaf, depth first in file order, as name.0, name.1, ...

        An interaction belongs to the first path that holds it:

            u1 - y1 - u2 - y2      name.0 owns y1, followed by u2
                   \\- u3 - y3      name.1 owns y1, followed by u3
                        \\- y4      name.2 owns nothing

        A message that is deleted or cannot be used falls with all that hangs below it.
        """
        meta = {key: about[key] for key in META if key in about}
        leaves, room = 0, MOST_TURNS
        path = _Path()
        waiting: list[_Turn] = []
        yield from self._grow([root], None, waiting)
        while waiting:
            last = waiting.pop()
            path.go_to(last)
            before = len(waiting)
            try:
                yield from self._grow(self.replies_of(last.node), last, waiting)
            except Fault as fault:
                yield Loss(fault.reason, last.node.where, fault.detail)
            if len(waiting) > before:
                continue
            room -= last.depth
            if room < 0:
                detail = f"the paths of tree {self.name!r} have more than {MOST_TURNS:,} messages"
                yield Loss("tree too large", last.node.where, detail)
                return
            messages, owned = path.told()
            where = last.node.where
            yield Conversation(f"{self.name}.{leaves}", messages, "", where, meta, owned)
            leaves += 1

    def _grow(
        self, nodes: list[Record], above: _Turn | None, waiting: list[_Turn]
    ) -> Iterator[Loss | Note]:
        """Put the nodes that can follow a turn in front of what is waiting; what became of others.

        In trees, and only there, a speaker who replies to himself has cut one turn in two, as in
        OpenAssistant's seed data: the parts are joined, and counted.
        """
        turns = []
        for node in nodes:
            label = "message"
            try:
                value = an_object(node.value)
                label = f"message {find_name(value, 'message_id', 'user_message_id')!r}"
                if value.get("deleted"):
                    detail = f"{label} is marked as deleted, and falls with all replies below it"
                    yield Loss("deleted message", node.where, detail, NOTHING_WRONG)
                    continue
                with within(label):
                    turn, notes = self._turn(node, above)
                yield from notes
                turns.append(turn)
            except Unclean as fault:
                remedy = MEND_LINE if self.repair == "stop" else NOTHING_WRONG
                yield Loss(fault.reason, node.where, fault.detail, remedy)
            except Fault as fault:
                yield Loss(fault.reason, node.where, fault.detail)
        waiting += reversed(turns)

    def _turn(self, node: Record, above: _Turn | None) -> tuple[_Turn, list[Note]]:
        read = read_turn(node.value, 0, "", KNOWN)
        message, notes = read.message, []
        assert message is not None
        for kind in read.left_out:
            notes.append(self._flaw(node, f"part of kind {kind} left out", "only text is read"))
        if not message.content.strip():
            raise Unclean(f"empty message of the {message.role}", "it falls with all below it")
        if message.role == "system" and above is not None:
            raise Unclean("misplaced system message", "it falls with all below it")
        goes_on = above is not None and above.message.role == message.role
        if goes_on:
            detail = "it goes on where its parent, of the same role, ends"
            notes.append(self._flaw(node, "joined to its parent", detail))
        for field in read.unused:
            reason = f"field {reprlib.repr(field)} not used"
            notes.append(Note(reason, node.where, "of a message", unused=True))
        return _Turn(node, message, above, goes_on), notes

    def _flaw(self, node: Record, reason: str, detail: str) -> Note:
        if self.repair != "join":
            raise Unclean(reason, detail)
        return Note(reason, node.where, detail)
