"""Token trees: the student and teacher sequences of a conversation, shared prefixes once.

Sequences are compared by ids, so no chat template is special-cased and merges of the tokenizer
across a border come out right by construction. The longest student sequence is the trunk; every
other sequence is a limb that forks where it leaves the trunk:

    trunk      u1 y1 u2 y2
    teacher    u1|[hindsight o1] y1
    teacher    u1 y1 u2|[hindsight o2] y2

Inputs and targets are apart: the last token of a sequence is only ever a target, so it is dropped
before prefixes are compared, and a reply token is a pair (predictor, target).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from interact_jax.data.encode import Encoded

SHARED = 0.5  # of the shorter context: two sequences that share less stand in separate trees


@dataclasses.dataclass(frozen=True)
class Limb:
    """A branch of a tree: `ids` [L], whose first token has `fork` ancestors, all on the trunk."""

    ids: np.ndarray
    fork: int


@dataclasses.dataclass(frozen=True)
class Reply:
    """Where the reply of an interaction stands: target ids y [R] and the predictors of each stream.

    The predictor of y[t] in the student's sequence has `student_start + t` ancestors; it is on
    limb `student` if that is at least the limb's fork, on the trunk otherwise (always if None).
    """

    id: str
    y: np.ndarray
    student: int | None
    student_start: int
    teacher: int
    teacher_start: int


@dataclasses.dataclass(frozen=True)
class Size:
    """Tokens of a tree or capacity of a row, by array: trunk, branches, replies; J: branches."""

    T: int
    P: int
    Q: int
    R: int
    J: int

    def __add__(self, other: Size) -> Size:
        return Size(*(a + b for a, b in zip(self.counts(), other.counts(), strict=True)))

    def fits(self, capacity: Size) -> bool:
        """Whether no array overflows."""
        return all(a <= b for a, b in zip(self.counts(), capacity.counts(), strict=True))

    def counts(self) -> tuple[int, ...]:
        """The five numbers, in order."""
        return (self.T, self.P, self.Q, self.R, self.J)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A trunk [T], student and teacher limbs, and the replies to score."""

    trunk: np.ndarray
    student: tuple[Limb, ...]
    teacher: tuple[Limb, ...]
    replies: tuple[Reply, ...]
    members: tuple[Encoded, ...]  # what it was grown from, to split it

    @property
    def size(self) -> Size:
        return Size(
            T=len(self.trunk),
            P=sum(len(limb.ids) for limb in self.student),
            Q=sum(len(limb.ids) for limb in self.teacher),
            R=sum(len(reply.y) for reply in self.replies),
            J=len(self.student) + len(self.teacher),
        )


def grow(window: Sequence[Encoded]) -> list[Tree]:
    """Trees of the interactions that see one history window, in order.

    Usually one; an interaction that shares little with the tree at hand (the reference's cut
    windows) starts another.
    """
    groups: list[list[Encoded]] = []
    longest: Encoded | None = None  # of the tree at hand: its sequence will be the trunk
    for encoded in window:
        if longest is not None and _share_much(longest, encoded):
            groups[-1].append(encoded)
            longest = max(longest, encoded, key=lambda e: len(_student_path(e)))
        else:
            groups.append([encoded])
            longest = encoded
    return [_tree(group) for group in groups]


def plant_apart(window: Sequence[Encoded]) -> list[Tree]:
    """Trees that share nothing (`sharing=none`): a trunk and a full teacher sequence each."""
    return [_tree([encoded], share=False) for encoded in window]


GROW = {"tree": grow, "none": plant_apart}
"""How interactions become trees, by the name of the setting `sharing`."""


def split(tree: Tree, capacity: Size) -> list[Tree]:
    """Halve a tree until every part fits; the parts repeat the trunk as far as they need it.

    Raises ValueError where a single interaction does not fit: the capacity is too small.
    """
    if tree.size.fits(capacity):
        return [tree]
    if len(tree.members) == 1:
        raise ValueError(f"interaction {tree.members[0].id} of {tree.size} exceeds {capacity}")
    half = len(tree.members) // 2
    halves = (tree.members[:half], tree.members[half:])
    return [part for members in halves for part in split(_tree(members), capacity)]


def apart(tree: Tree) -> list[Tree]:
    """Each interaction of a tree as a tree of its own."""
    return [_tree([member]) for member in tree.members]


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    differ = np.nonzero(np.asarray(a[:n]) != np.asarray(b[:n]))[0]
    return int(differ[0]) if len(differ) else n


def _share_much(a: Encoded, b: Encoded) -> bool:
    shared = shared_prefix(_student_path(a), _student_path(b))
    return shared >= SHARED * min(len(a.x), len(b.x))


def _student_path(encoded: Encoded) -> list[int]:
    return (encoded.x + encoded.y)[:-1]


def _tree(members: Sequence[Encoded], share: bool = True) -> Tree:
    trunk = max((_student_path(e) for e in members), key=len)
    student, teacher, replies = [], [], []
    for e in members:
        path, limb = _student_path(e), None
        fork = shared_prefix(trunk, path)
        if fork < len(path):
            limb = len(student)
            student.append(Limb(np.asarray(path[fork:], np.int32), fork))
        path = (e.xo + e.y)[:-1]
        # At the latest before its last context token: the predictor of y[0] is the teacher's own,
        # even where an empty follow-up makes its prompt equal the plain one.
        fork = min(shared_prefix(trunk, path), len(e.xo) - 1) if share else 0
        teacher.append(Limb(np.asarray(path[fork:], np.int32), fork))
        replies.append(
            Reply(
                id=e.id,
                y=np.asarray(e.y, np.int32),
                student=limb,
                student_start=len(e.x) - 1,
                teacher=len(teacher) - 1,
                teacher_start=len(e.xo) - 1,
            )
        )
    trunk_ids = np.asarray(trunk, np.int32)
    return Tree(trunk_ids, tuple(student), tuple(teacher), tuple(replies), tuple(members))


def paths(tree: Tree) -> list[tuple[str, str, np.ndarray]]:
    """(interaction id, "student" or "teacher", input ids) of every sequence, as it is alone."""
    found = []
    for reply in tree.replies:
        limb = tree.student[reply.student] if reply.student is not None else None
        end = reply.student_start + len(reply.y)
        stem = tree.trunk[: limb.fork if limb else end]
        found.append((reply.id, "student", np.concatenate([stem, limb.ids]) if limb else stem))
        limb = tree.teacher[reply.teacher]
        found.append((reply.id, "teacher", np.concatenate([tree.trunk[: limb.fork], limb.ids])))
    return found


def picture(tree: Tree, decode, width: int = 100) -> str:
    """The tree as text, a line a sequence: shared tokens are drawn as `·`, a limb begins with `|`.

    `decode` turns ids into text. Columns are not tokens: every line has its own numbers.
    """

    def clip(text: str, room: int) -> str:
        text = text.replace("\n", "⏎")
        half = (room - 3) // 2
        return text if len(text) <= room else f"{text[:half]} … {text[-half:]}"

    lines = [f"trunk     {len(tree.trunk):5d} tokens  {clip(decode(tree.trunk), width - 24)}"]
    for kind, limbs in (("student", tree.student), ("teacher", tree.teacher)):
        for number, limb in enumerate(limbs, 1):
            indent = "·" * round(20 * limb.fork / max(1, len(tree.trunk)))
            room = width - 24 - len(indent) - 1
            text = clip(decode(limb.ids), room)
            lines.append(f"{kind} {number:<2d}{len(limb.ids):5d} tokens  {indent}|{text}")
    size = tree.size
    alone = sum(len(ids) for _, _, ids in paths(tree))
    lines.append(
        f"{len(tree.replies)} replies, {size.R} reply tokens; {size.T + size.P + size.Q} tokens in "
        f"place of {alone} in separate sequences"
    )
    return "\n".join(lines)
