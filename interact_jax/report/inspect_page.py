"""The page of `launch/inspect_data.py`: a sample of the data, with a box that searches it.

The page reads well without its script (`inspect_page.js`), which only filters and marks.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from interact_jax.data.chat import ChatFormat
from interact_jax.data.tree import paths
from interact_jax.printable import count
from interact_jax.report import html
from interact_jax.report.inspect_trees import tokens_of, tree_html
from interact_jax.report.inspection import Entry, Filtered, Finding, Inspection, Remark, Split
from interact_jax.schema import Conversation, Message

HERE = Path(__file__).parent
MOST_CHARACTERS = 20_000  # of a conversation's messages
MOST_MESSAGES, MOST_PAIRS = 200, 20
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
    return html.table(rows)


def _sizes(entries: Iterable[Entry]) -> str:
    trees = [tree for entry in entries for tree in entry.trees or ()]
    replies = sum(len(tree.replies) for tree in trees)
    tokens = sum(tokens_of(tree) for tree in trees)
    separate = sum(len(ids) for tree in trees for _, _, ids in paths(tree))
    return (
        f"{count(len(trees), 'tree')} with {count(replies, 'reply', 'replies')} of "
        f"{count(sum(tree.size.R for tree in trees), 'token')}; {tokens:,} tokens in place of "
        f"{separate:,} in separate sequences"
    )


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
    yield _reasons(inspection.entries)
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


def _reasons(entries: Iterable[Entry]) -> str:
    """Buttons that find the conversations on which there are remarks, by their reasons."""
    counts = collections.Counter(
        reason for entry in entries for reason in {remark.reason for remark in entry.remarks}
    )
    buttons = (
        f'<li><button type="button" data-query="{html.escape_attribute(reason)}">'
        f"{html.escape_text(reason)}</button> {count(number, 'conversation')}</li>"
        for reason, number in counts.most_common()
    )
    if not counts:
        return ""
    return html.fold(
        "Find what was lost, cut or mended", f'<ul class="reasons">{"".join(buttons)}</ul>'
    )


def _conversation(number: int, entry: Entry, shown: Shown) -> str:
    conversation = entry.conversation
    learned = _learned(entry)
    whole = [name for name, is_learned in learned.items() if is_learned]
    facts = [
        count(len(conversation.messages), "message"),
        f"{len(whole):,} of {count(len(learned), 'reply', 'replies')} with a follow-up learned from"
        if len(whole) < len(learned)
        else count(len(learned), "interaction"),
    ]
    user = f" · user <bdi>{html.escape_text(conversation.user)}</bdi>" * bool(conversation.user)
    flaws = f' <span class="flaw">{count(len(entry.remarks), "remark")}</span>'
    return (
        f'<details class="pair conversation" id="c{number}"><summary>'
        f'<h3 class="find"><bdi>{html.escape_text(conversation.id)}</bdi></h3> '
        f'<span class="soft"><span class="find">{_opening(conversation)}</span>'
        f'{" · ".join(facts)}<span class="find">{user}</span></span>'
        f"{flaws * bool(entry.remarks)}</summary><div>"
        f'<p class="note find">{html.escape_text(conversation.source)}{_meta(conversation)}</p>'
        + _remarks(entry.remarks)
        + "".join(_messages(conversation, learned))
        + _preferences(conversation)
        + "".join(_trees(entry, shown))
        + "</div></details>"
    )


def _opening(conversation: Conversation) -> str:
    """The beginning of the first message of the user, so that closed entries say something."""
    text = next((m.content for m in conversation.messages if m.role == "user"), "")
    short = " ".join(text[:400].split())
    dots = "…" * (len(short) > 80)
    return f"<bdi>{html.escape_text(short[:80])}{dots}</bdi> · " if short else ""


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


def _remarks(remarks: Sequence[Remark]) -> str:
    if not remarks:
        return ""
    items = "".join(f"<li>{html.message(f'{r.reason}: {r.detail}')}</li>" for r in remarks)
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
        yield html.fold(summary, tree_html(tree, shown.chat, shown.max_reply))
