"""The page of `launch/inspect_data.py`: a sample of the data, with a box that searches it.

The page reads well without its script (`inspect_page.js`), which only filters and marks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from interact_jax.data.chat import ChatFormat
from interact_jax.data.thinking import NOTES
from interact_jax.data.tree import Place, Reply, Tree, paths
from interact_jax.printable import count
from interact_jax.report import html
from interact_jax.report.inspection import Entry, Filtered, Finding, Inspection, Split
from interact_jax.schema import Conversation, Message

HERE = Path(__file__).parent
MOST_CHARACTERS = 20_000  # of a conversation's messages
MOST_MESSAGES, MOST_PAIRS = 200, 20
MOST_STREAMS, MOST_REPLIES = 60, 200  # of a tree
CONTEXT, REPLY = 300, 1000  # characters of a tree's text between replies, and of a reply
HISTOGRAMS = "Conversations by the highest power of two in a number."


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page says about how it was made. Without `chat`, there are no trees."""

    title: str
    chat: ChatFormat | None
    tokenizer: str
    max_reply: int
    seed: int


def write_inspect_page(file: Path, inspection: Inspection, shown: Shown) -> Path:
    """Write the page; returns its path."""
    body = [
        _overview(inspection, shown),
        *_card(inspection),
        *_findings(inspection.findings),
        *_sample(inspection, shown),
    ]
    return html.write_page(
        file,
        shown.title,
        body,
        style=(HERE / "inspect_page.css").read_text(encoding="utf-8"),
        script=(HERE / "inspect_page.js").read_text(encoding="utf-8"),
    )


# ------------------------------------------------------------------------------------- overview


def _overview(inspection: Inspection, shown: Shown) -> str:
    rows = [("data", html.escape_text(inspection.source))]
    if inspection.split:
        rows.append(("split", html.escape_text(inspection.split)))
    rows += [(name, f"{number:,}") for name, number in inspection.read.items()]
    sampled = html.count_shown(len(inspection.entries), inspection.total, "conversations")
    chance = f" Drawn at random with seed {shown.seed}, in the order of the data."
    rows.append(("sample", sampled + chance * (len(inspection.entries) < inspection.total)))
    if shown.chat is None:
        rows.append(("token trees", "none: no tokenizer was given. --tokenizer NAME shows them."))
    else:
        rows.append(("tokenizer", html.escape_text(shown.tokenizer)))
        rows.append(("token trees of the sample", _sizes(inspection.entries)))
    return html.table(rows, kind="values")


def _sizes(entries: Iterable[Entry]) -> str:
    trees = [tree for entry in entries for tree in entry.trees or ()]
    replies = sum(len(tree.replies) for tree in trees)
    tokens = sum(_tokens(tree) for tree in trees)
    separate = sum(len(ids) for tree in trees for _, _, ids in paths(tree))
    return (
        f"{count(len(trees), 'tree')} with {count(replies, 'reply', 'replies')} of "
        f"{count(sum(tree.size.R for tree in trees), 'token')}; {tokens:,} tokens in place of "
        f"{separate:,} in separate sequences"
    )


def _tokens(tree: Tree) -> int:
    return tree.size.T + tree.size.P + tree.size.Q


# --------------------------------------------------------------------------- read, lost, filtered


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    yield "<h2>What was lost and mended</h2>"
    if not findings:
        yield "<p>Nothing.</p>"
        return
    rows = [
        (
            html.escape_text(each.kind),
            f"{each.times:,}",
            html.escape_text(each.reason) + _examples(each.examples),
        )
        for each in findings
    ]
    yield html.table(rows, ("what", "times", "reason, and the first cases"))


def _examples(examples: Sequence[str]) -> str:
    if not examples:
        return ""
    items = "".join(f"<li>{html.message(example)}</li>" for example in examples)
    return html.fold(count(len(examples), "example"), f'<ul class="reasons">{items}</ul>')


def _card(inspection: Inspection) -> Iterator[str]:
    """What the card of prepared data says."""
    if (card := inspection.card) is None:
        return
    yield "<h2>How the data were prepared</h2>"
    yield html.table(
        [(html.escape_text(name), html.message(text)) for name, text in card.facts.items()],
        kind="values",
    )
    counts = [(html.escape_text(_words(k)), f"{n:,}") for k, n in card.counts.items()]
    yield html.table(counts, ("of all splits", ""), "numbers")
    yield "<h2>What the filters did</h2>"
    if not card.filters:
        yield "<p>The data were prepared without a filter.</p>"
    yield from map(_filter, card.filters)
    yield "<h2>Splits</h2>"
    yield _splits(card.splits)
    yield f'<h2>Lengths</h2><p class="note">{HISTOGRAMS}</p>'
    yield from _histograms(card.splits)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _filter(filtered: Filtered) -> str:
    rows = [
        (kind, f"{times:,}", html.escape_text(reason) + _samples(filtered.samples.get(reason, ())))
        for kind, counts in (("dropped", filtered.dropped), ("changed", filtered.changed))
        for reason, times in counts.items()
    ]
    content = html.table(rows, ("what", "times", "reason, and samples")) if rows else "Nothing."
    dropped = sum(filtered.dropped.values())
    return (
        '<details class="pair" open><summary><h3>'
        f'{html.escape_text(filtered.spec)}</h3> <span class="soft">{dropped:,} dropped</span>'
        f'</summary><div class="turns"><div class="wide">{content}</div></div></details>'
    )


def _samples(samples: Sequence[Mapping[str, str]]) -> str:
    """Of conversations that a filter dropped."""
    if not samples:
        return ""
    items = (
        f"<li><b>{html.escape_text(sample.get('id', ''))}</b> "
        f'<span class="soft">{html.escape_text(sample.get("source", ""))}</span><br>'
        f"{html.escape_text(sample.get('detail', ''))}<br>"
        f"{html.escape_text(sample.get('opening', ''))}</li>"
        for sample in samples
    )
    return html.fold(count(len(samples), "sample"), f'<ul class="reasons">{"".join(items)}</ul>')


def _splits(splits: Sequence[Split]) -> str:
    kinds = list(dict.fromkeys(kind for split in splits for kind in split.totals))
    rows = [
        (
            html.escape_text(split.name),
            f"{split.share:g}",
            *(f"{split.totals[kind]:,}" if kind in split.totals else "" for kind in kinds),
        )
        for split in splits
    ]
    head = ["split", "share", *(html.escape_text(_words(kind)) for kind in kinds)]
    return html.table(rows, head, "numbers")


def _histograms(splits: Sequence[Split]) -> Iterator[str]:
    """Of all splits together."""
    totals: dict[str, dict[int, int]] = {}
    for split in splits:
        for kind, histogram in split.histograms.items():
            total = totals.setdefault(kind, {})
            for least, number in histogram.items():
                total[least] = total.get(least, 0) + number
    yield '<div class="figures">'
    for kind, total in totals.items():
        most = max(total.values(), default=1)
        rows = [
            (f"{least:,} and more" if least else "0", f"{number:,}", _measure(number / most))
            for least, number in sorted(total.items())
        ]
        head = (html.escape_text(_words(kind)), "conversations", "")
        yield f"<div>{html.table(rows, head, 'histogram')}</div>"
    yield "</div>"


def _measure(share: float) -> str:
    return f'<span class="measure" style="width:{100 * share:.1f}%"></span>'


# -------------------------------------------------------------------------------- conversations


def _sample(inspection: Inspection, shown: Shown) -> Iterator[str]:
    yield '<h2 id="conversations">Conversations</h2>'
    yield (
        '<p class="note"><span class="badge y">y</span> is a reply that is learned from, '
        '<span class="badge o">o</span> the user\'s follow-up to it.</p>'
    )
    yield _search()
    flaws = dict.fromkeys(_kind_of(r) for entry in inspection.entries for r in entry.reasons)
    if flaws:
        yield html.fold(
            "Find what lost something, by reason",
            f"<p>{' '.join(map(_reason_button, sorted(flaws)))}</p>",
        )
    for number, entry in enumerate(inspection.entries, 1):
        yield _conversation(number, entry, shown)
    yield "<noscript><p>The search box needs scripts; all else is here.</p></noscript>"


def _search() -> str:
    return (
        '<div id="search" role="search" hidden><label>Search <input id="query" type="search" '
        'placeholder="text, id, user, reason" autocomplete="off" spellcheck="false" '
        'aria-describedby="matches" title="The key / leads here, Esc shows all"></label>'
        '<span id="matches" role="status"></span>'
        '<span><button type="button" id="open-all">Open</button> '
        '<button type="button" id="close-all">Close</button></span></div>'
    )


def _kind_of(reason: str) -> str:
    """What reasons of one kind have in common: without the number in front, and the details."""
    first, _, rest = reason.partition(" ")
    if first.replace(",", "").isdigit():
        return rest.partition(" ")[2] or rest
    return ": ".join(reason.split(": ")[:2])


def _reason_button(kind: str) -> str:
    return (
        f'<button type="button" data-query="{html.escape_attribute(kind)}">'
        f"{html.escape_text(kind)}</button>"
    )


def _conversation(number: int, entry: Entry, shown: Shown) -> str:
    conversation = entry.conversation
    learned = _learned(entry)
    whole = [name for name, is_learned in learned.items() if is_learned]
    facts = [
        count(len(conversation.messages), "message"),
        f"{len(whole):,} of {count(len(learned), 'reply', 'replies')} with a follow-up learned"
        if len(whole) < len(learned)
        else count(len(learned), "interaction"),
    ]
    user = f" · user {html.escape_text(conversation.user)}" * bool(conversation.user)
    flaws = f' <span class="flaw">{count(len(entry.reasons), "remark")}</span>'
    return (
        f'<details class="pair conversation" id="c{number}"><summary>'
        f'<h3 class="find">{html.escape_text(conversation.id)}</h3> '
        f'<span class="soft"><span class="find">{_opening(conversation)}</span>'
        f'{" · ".join(facts)}<span class="find">{user}</span></span>'
        f"{flaws * bool(entry.reasons)}</summary><div>"
        f'<p class="note find">{html.escape_text(conversation.source)}{_meta(conversation)}</p>'
        + _reasons(entry.reasons)
        + "".join(_messages(conversation, learned))
        + _preferences(conversation)
        + "".join(_trees(entry, shown))
        + "</div></details>"
    )


def _opening(conversation: Conversation) -> str:
    """The beginning of the first message of the user, so that closed entries say something."""
    text = next((m.content for m in conversation.messages if m.role == "user"), "")
    short = " ".join(text[:400].split())
    return f"{html.escape_text(short[:80])}{'…' * (len(short) > 80)} · " if short else ""


def _meta(conversation: Conversation) -> str:
    pairs = [f"{name}: {value}" for name, value in conversation.meta.items()]
    if conversation.tools:
        pairs.append(count(len(conversation.tools), "tool"))
    return "".join(f" · {html.escape_text(pair[:300])}" for pair in pairs[:20])


def _learned(entry: Entry) -> dict[str, bool]:
    """The interactions of a conversation by their ids, and whether they are learned from: all of
    them as far as is known without a tokenizer."""
    names = [interaction.id for interaction in entry.conversation.interactions()]
    if entry.trees is None:
        return dict.fromkeys(names, True)
    grown = {reply.target.id for tree in entry.trees for reply in tree.replies}
    return {name: name in grown for name in names}


def _reasons(reasons: Sequence[str]) -> str:
    if not reasons:
        return ""
    items = "".join(f"<li>{html.message(reason)}</li>" for reason in reasons)
    return f'<ul class="reasons find flaw">{items}</ul>'


def _messages(conversation: Conversation, learned: Mapping[str, bool]) -> Iterator[str]:
    names = {index: conversation.name_at(index) for _, index in conversation.replies()}
    rest = MOST_CHARACTERS
    for index, message in enumerate(conversation.messages):
        if index >= MOST_MESSAGES or rest <= 0:
            more = count(len(conversation.messages) - index, "more message")
            yield f'<p class="note">{more}, not shown</p>'
            return
        if index in conversation.restarts:
            yield '<p class="note">history restarts here: what was before cannot be shown</p>'
        yield _message(index, message, names, learned, rest)
        rest -= len(message.content)


def _message(
    index: int, message: Message, names: Mapping[int, str], learned: Mapping[str, bool], room: int
) -> str:
    label, kind = html.escape_text(message.role), ""
    if index in names:
        is_learned = learned[names[index]]
        kind = "y" * is_learned
        badge = '<span class="badge y">y</span>' if is_learned else _not_learned()
        label += f" {badge} {html.escape_text(names[index])}"
    elif index - 1 in names:
        kind = "o"
        label += (
            f' <span class="badge o">o</span> follow-up to {html.escape_text(names[index - 1])}'
        )
    content = html.message(message.content[:room]) or '<span class="soft">(empty)</span>'
    if len(message.content) > room:
        more = f"{len(message.content) - room:,} more characters, not shown"
        content += f' <span class="soft">{more}</span>'
    for name, value in message.fields.items():
        text = f"{name}: {value}"
        content += html.fold(html.escape_text(str(name)), html.escape_text(text[:2000]))
    return html.section(label, content, f"find {kind}".strip())


def _not_learned() -> str:
    return '<span class="badge flaw">not learned from</span>'


def _preferences(conversation: Conversation) -> str:
    pairs = conversation.preferences or ()
    if not pairs:
        return ""
    content = "".join(
        html.section(f"preferred, after {pair.index:,} messages", html.message(pair.chosen.content))
        + html.section("rejected", html.message(pair.rejected.content))
        for pair in pairs[:MOST_PAIRS]
    )
    return html.fold(count(len(pairs), "pair of replies", "pairs of replies"), content)


# ---------------------------------------------------------------------------------------- trees


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


def _trees(entry: Entry, shown: Shown) -> Iterator[str]:
    if shown.chat is None or entry.trees is None:
        return
    if not entry.trees:
        yield '<p class="note">no token tree: nothing of it is learned from</p>'
    for number, tree in enumerate(entry.trees, 1):
        size = tree.size
        of = f" {number} of {len(entry.trees)}" if len(entry.trees) > 1 else ""
        summary = (
            f"token tree{of}: trunk {size.T:,}, {count(size.J, 'branch', 'branches')} "
            f"{size.P + size.Q:,}, y {size.R:,} tokens"
        )
        yield html.fold(summary, _tree(tree, shown.chat, shown.max_reply))


def _tree(tree: Tree, chat: ChatFormat, max_reply: int) -> str:
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
        + f'<p class="note">{_tokens(tree):,} tokens in place of {separate:,} in separate '
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
        shown = html.escape_text(clip(decode(ids), REPLY if is_reply else CONTEXT))
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
