"""Token trees on a page: a bar and the text of the trunk and of each branch, replies marked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from interact_jax.data.chat import ChatFormat
from interact_jax.data.thinking import NOTES
from interact_jax.data.tree import Place, Reply, Tree, paths
from interact_jax.printable import count
from interact_jax.report import html

MOST_STREAMS, MOST_REPLIES = 60, 200  # of a tree
CONTEXT, REPLY = 300, 1000  # characters of a tree's text between replies, and of a reply


def tokens_of(tree: Tree) -> int:
    """How many tokens are computed."""
    return tree.size.T + tree.size.P + tree.size.Q


@dataclasses.dataclass(frozen=True)
class Stream:
    """The trunk or a branch of a tree: its ids, the tokens of the trunk that it follows, and the
    places of replies in it."""

    name: str
    ids: np.ndarray
    fork: int
    spans: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        return self.fork + len(self.ids)


def tree_html(tree: Tree, chat: ChatFormat, max_reply: int) -> str:
    streams = streams_of(tree)
    longest = max(stream.end for stream in streams)
    parts = [_stream(stream, longest, chat.decode) for stream in streams[:MOST_STREAMS]]
    if len(streams) > MOST_STREAMS:
        parts.append(f'<p class="note">{len(streams) - MOST_STREAMS:,} more, not shown</p>')
    rows = [_reply(reply, chat, max_reply) for reply in tree.replies[:MOST_REPLIES]]
    separate = sum(len(ids) for _, _, ids in paths(tree))
    return (
        "".join(parts)
        + html.table(rows, ("reply", "tokens of y", "ends with", "remarks"))
        + f'<p class="note">{tokens_of(tree):,} tokens in place of {separate:,} in separate '
        "sequences. The last token of a sequence is only a target, and not in the tree.</p>"
    )


def streams_of(tree: Tree) -> list[Stream]:
    """The trunk, the branches that are differentiated, and the others, each with the places of the
    replies in it."""
    spans: dict[tuple[bool, int | None], list[tuple[int, int]]] = {}
    views: dict[tuple[bool, int | None], str] = {}
    for reply in tree.replies:
        for view, place in reply.places.items():
            frozen = view in tree.frozen_views
            where = (frozen and place.limb is not None, place.limb)
            fork = 0 if place.limb is None else tree.limbs_of(view)[place.limb].fork
            start, stop = _span(tree, reply, view, place)
            spans.setdefault(where, []).append((max(0, start - fork), stop - fork))
            if start < fork:
                spans.setdefault((False, None), []).append((start, fork))
            views[where] = view
    trunk = Stream("trunk", tree.trunk, 0, _merged(spans.get((False, None), ())))
    limbs = [
        Stream(
            views.get((frozen, number), "branch"),
            limb.ids,
            limb.fork,
            _merged(spans.get((frozen, number), ())),
        )
        for frozen, limbs in ((False, tree.live), (True, tree.frozen))
        for number, limb in enumerate(limbs)
    ]
    return [trunk, *limbs]


def _span(tree: Tree, reply: Reply, view: str, place: Place) -> tuple[int, int]:
    """From where to where the tokens of y are among the ids of a path, or of the trunk."""
    y = reply.target.y
    ids = tree.trunk if place.limb is None else tree.path(reply, view)
    start, last = place.start + 1, place.start + len(y)
    return start, last + int(last < len(ids) and ids[last] == y[-1])


def _merged(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same places without overlaps and empty ones, in order."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        elif start < stop:
            merged.append((start, stop))
    return tuple(merged)


def pieces_of(stream: Stream) -> Iterator[tuple[bool, np.ndarray]]:
    """The ids of a stream in pieces, and whether each is a reply."""
    at = 0
    for start, stop in stream.spans:
        if at < start:
            yield False, stream.ids[at:start]
        yield True, stream.ids[start:stop]
        at = stop
    if at < len(stream.ids):
        yield False, stream.ids[at:]


def _stream(stream: Stream, longest: int, decode: Callable[[np.ndarray], str]) -> str:
    bar = [f'<span class="shared" style="flex:{stream.fork}"></span>'] if stream.fork else []
    text = []
    for is_reply, ids in pieces_of(stream):
        bar.append(f'<span class="{"y" if is_reply else "x"}" style="flex:{len(ids)}"></span>')
        clipped = clip(decode(ids), REPLY if is_reply else CONTEXT)
        shown = html.escape_text(clipped).replace("\n", "⏎\n")
        text.append(f"<mark>{shown}</mark>" if is_reply else shown)
    bar.append(f'<span style="flex:{longest - stream.end}"></span>')
    after = f", after {stream.fork:,} of the trunk" if stream.name != "trunk" else ""
    return (
        f'<div class="stream"><span class="label">{html.escape_text(stream.name)}: '
        f"{count(len(stream.ids), 'token')}{after}</span>"
        f'<div class="bar" aria-hidden="true">{"".join(bar)}</div>'
        f'<div class="said" dir="auto">{"".join(text)}</div></div>'
    )


def clip(text: str, room: int) -> str:
    """A text without its middle, if it is longer than there is room."""
    half = room // 2
    if len(text) <= room:
        return text
    return f"{text[:half]} […{len(text) - 2 * half:,} characters…] {text[-half:]}"


def _reply(reply: Reply, chat: ChatFormat, max_reply: int) -> tuple[str, ...]:
    target, remarks = reply.target, []
    if len(target.y) >= max_reply and target.y[-1] != chat.eos_id:
        remarks.append(f"cut at {max_reply:,} tokens, so that its end is lost")
    if target.reasoning:
        remarks.append(NOTES.get(target.reasoning, target.reasoning))
    if target.weight != 1:
        remarks.append(f"weight {target.weight:g}")
    return (
        html.escape_text(target.id),
        f"{len(target.y):,}",
        html.escape_text(chat.decode(target.y[-1:])).replace("\n", "⏎") or "∅",
        html.escape_text("; ".join(remarks)),
    )
