"""The nouns of the project: conversations on the host, token arrays on the device.

The alphabet (design: one alphabet, three uses). A letter is the suffix of an array's name
(`hidden_BxTxD`), the index in an einsum, and the logical axis that `sharding` maps to the mesh:

    B rows of a batch          T trunk tokens of a row       P live-branch tokens of a row
    Q frozen-branch tokens     R reply tokens of a row       J branches of a row, trunk = 0
    I examples of a row        C chunk of tokens             V vocabulary
    N layers                   D model width                 H query heads
    G key/value heads          K head width                  F MLP width
    S keys a query may see     L tokens of any one stream (T, P or Q)

Live branches are differentiated, frozen ones are not: under self-distillation those of the student
and those of the teacher.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from interact_jax.printable import presentable

ROLES = ("system", "user", "assistant", "tool")


class InputError(ValueError):
    """The user's input cannot be used: a file, a setting, a checkpoint, a model.

    The message is for the person who runs the program: what was given, what was expected, what
    to do. Programs print it without a traceback and exit with status 2. It often quotes text from
    others, so it is made `presentable`.
    """

    def __init__(self, message: str):
        super().__init__(presentable(message))


class RunStopped(RuntimeError):
    """A run stopped early for a reason that is not a bug; the message says why and what to do.

    Programs print it without a traceback and exit with `status`.
    """

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


# ----------------------------------------------------------------------------- on the host


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn. `token_ids`, `logps` and `sampling_logps` (same length) are what a sampler
    produced, if one did: see `generation.engine`. `weight` is how much the message counts when it
    is learned. `fields` are what chat templates may render besides the text: `tool_calls`,
    `reasoning_content`."""

    role: str
    content: str
    token_ids: tuple[int, ...] | None = None
    logps: tuple[float, ...] | None = None
    weight: float = 1.0
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    sampling_logps: tuple[float, ...] | None = None


class History(Sequence[Message]):
    """The messages of a dialogue from `start` up to `stop`, after its system message.

    A view: copying every history of a long dialogue would be quadratic in its length.
    """

    def __init__(self, messages: tuple[Message, ...], start: int, stop: int):
        self._system = messages[: int(start > 0 and messages[0].role == "system")]
        self._messages, self._start, self._stop = messages, start, stop

    @property
    def key(self) -> tuple[int, int, int]:
        """Tells histories of living messages apart."""
        return id(self._messages), self._start, self._stop

    def __len__(self) -> int:
        return len(self._system) + max(0, self._stop - self._start)

    def __iter__(self) -> Iterator[Message]:
        return iter((*self._system, *self._messages[self._start : self._stop]))

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Message, ...]: ...
    def __getitem__(self, index: int | slice) -> Message | tuple[Message, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        place = range(len(self))[index]
        before = len(self._system)
        return self._system[0] if place < before else self._messages[self._start + place - before]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


@dataclasses.dataclass(frozen=True)
class Interaction:
    """The unit of learning: history x, reply y, the user's next message o.

    `id` is the conversation's id + "_" + the index of y among the messages of the input.
    """

    id: str
    x: Sequence[Message]
    y: Message
    o: Message


@dataclasses.dataclass(frozen=True)
class Preference:
    """Two replies to the same history, the first `index` messages of a conversation."""

    index: int
    chosen: Message
    rejected: Message


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A dialogue. `source` says where it was read ("logs.jsonl:17"), for error messages.

    `owned` has the indices of the assistant messages whose interactions belong to this
    conversation; None = all. Paths of one message tree share turns, and a shared interaction counts
    once. `preferences` are judgements on two replies; None where the data has none.

    Where messages of the input were joined or left out, `places` has each message's index in the
    input (-1 = none), which is used in the ids of interactions; None = unchanged. At the messages
    in `restarts`, all of the user, history begins anew: something before them cannot be shown.
    `tools` are what the assistant could call.
    """

    id: str
    messages: tuple[Message, ...]
    user: str = ""
    source: str = ""
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    owned: frozenset[int] | None = None
    preferences: tuple[Preference, ...] | None = None
    places: tuple[int, ...] | None = None
    restarts: frozenset[int] = frozenset()
    tools: tuple[Any, ...] = ()

    def replies(self) -> Iterator[tuple[int, int]]:
        """(start of its history, index) of every y: a reply with text, preceded by what it answers
        and followed by a message of the user."""
        inner = range(1, len(self.messages) - 1)
        for index in inner if self.owned is None else sorted(self.owned):
            if index not in inner or index + 1 in self.restarts:
                continue
            y, o = self.messages[index : index + 2]
            if (y.role, o.role) != ("assistant", "user") or not y.content:
                continue
            start = self._start(index)
            if self._asks_for_reply(start, index):
                yield start, index

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [0, *sorted(self.restarts)]

    def _start(self, index: int) -> int:
        """The start of the history of the message that is, or could be, at `index`."""
        return self._starts[bisect.bisect_left(self._starts, max(1, index)) - 1]

    def _asks_for_reply(self, start: int, index: int) -> bool:
        """Whether the message before `index` asks for a reply: it is the user's, or tools' answers
        that follow one of the user."""
        for place in range(index - 1, start - 1, -1):
            role = self.messages[place].role
            if role == "user" or (place == index - 1 and role != "tool"):
                return role == "user"
        return False

    def interactions(self) -> Iterator[Interaction]:
        """Every assistant message between user messages, in order."""
        for start, index in self.replies():
            x = History(self.messages, start, index)
            yield Interaction(self.name_at(index), x, *self.messages[index : index + 2])

    def history(self, index: int) -> History:
        """The history of the message at `index`."""
        return History(self.messages, self._start(index), index)

    def name_at(self, index: int) -> str:
        """The id of an interaction whose y is, or would be, at `index`."""
        if self.places is None:
            return f"{self.id}_{index}"
        known = index < len(self.places) and index not in self.restarts
        return f"{self.id}_{self.places[index] if known else self.places[index - 1] + 1}"


# --------------------------------------------------------------------------- on the device

Array = jax.Array | np.ndarray
"""An array of a batch: numpy while it is packed, jax.Array on the device."""


@flax.struct.dataclass
class TokenStream:
    """One of the three token arrays of a batch: trunk (L = T), live (P) or frozen branches (Q).

    `position` is the number of ancestors of a token (what RoPE and sliding windows use, never the
    index in the row); `segment` says which tree of the row it belongs to, 0 = padding; `branch`
    indexes the row's table of branches, 0 = on the trunk.
    """

    id_BxL: Array
    position_BxL: Array
    segment_BxL: Array
    branch_BxL: Array


@flax.struct.dataclass
class Branches:
    """The branches of each row. Entry 0 stands for every trunk of the row, with fork 0.

    A branch sees the tokens of its parent whose position is below `fork`. Currently every parent is
    a trunk (0); the column allows for deeper trees.
    """

    segment_BxJ: Array
    parent_BxJ: Array
    fork_BxJ: Array


@flax.struct.dataclass
class Replies:
    """The reply tokens of each row: y of every example, one entry per token, EOS included; and the
    table of examples, one entry per example, in the order of their tokens (I = R: none is empty).

    `predictor` has for every view the index of the token whose hidden state predicts the target:
    in the row's trunk and live branches put end to end, or in its frozen branches. `weight` is
    share / (counted tokens of the example), 0 where the token does not count or is padding, so that
    a sum of `weight * x` over tokens is a sum over examples of means over tokens.

    Examples that a loss joins (the two replies of a pair) are one unit and have the same number;
    `share` is the weight of an example among all, and those of a unit that counts once sum to 1.
    """

    example_BxR: Array  # index of the example in the row, -1 = padding
    target_BxR: Array
    weight_BxR: Array
    predictor: Mapping[str, Array]  # by view, [B, R]
    known: Mapping[str, Array]  # log-probabilities computed elsewhere, [B, R], NaN = not known
    unit_BxI: Array  # -1 = no such example
    side_BxI: Array  # 1 preferred, -1 not, 0 neither
    share_BxI: Array


@flax.struct.dataclass
class Batch:
    """Rows of packed token trees: what one micro-step works on."""

    trunk: TokenStream  # T
    live: TokenStream  # P: branches that are differentiated
    frozen: TokenStream  # Q: branches that are not
    branches: Branches
    replies: Replies
    frozen_views: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())


@flax.struct.dataclass
class Sum:
    """A mean before its division: can be added over tokens, rows, micro-batches and devices."""

    total: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, value: jax.Array, where: Array) -> Sum:
        """Sum `value` over the entries that `where` selects, ignoring NaN elsewhere."""
        return cls(jnp.where(where, value, 0).sum(), where.sum().astype(jnp.float32))

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total, self.count + other.count)

    def mean(self) -> jax.Array:
        """total / count, 0 where nothing was counted."""
        counted = self.count > 0
        return jnp.where(counted, self.total / jnp.where(counted, self.count, 1), 0.0)
