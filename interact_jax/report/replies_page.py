"""`replies.html`: the model's replies before and after training, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from interact_jax.report import html
from interact_jax.schema import Message

TITLE = "Replies before and after training"


class Row(NamedTuple):
    """A history and the replies to it; `follow_up` is what the user said next in the log, or ""."""

    x: Sequence[Message]
    before: str
    after: str
    follow_up: str = ""

    @property
    def changed(self) -> bool:
        return self.before != self.after


def write_replies_page(folder: Path, rows: Sequence[Row], total: int) -> Path:
    """Write `replies.html` into `folder`; returns its path. `rows` are shown, out of `total`, first
    those that changed. The run's page links to it if this is written first."""
    folder.mkdir(parents=True, exist_ok=True)
    same = sum(not row.changed for row in rows)
    body = [
        '<p class="note">Sampled in answer to held-out prompts, before the first step and after '
        f"the last. {html.count_shown(len(rows), total, 'replies')} {same:,} of those shown "
        f"{'is' if same == 1 else 'are'} the same before and after{' (last)' * bool(same)}.</p>"
    ]
    ordered = sorted(rows, key=lambda row: not row.changed)
    body += [_row(number, row) for number, row in enumerate(ordered, 1)]
    beside = [html.RUN] + [html.SIGNAL] * (folder / html.SIGNAL).exists()
    return html.write_page(folder / html.REPLIES, TITLE, body, beside)


def _row(number: int, row: Row) -> str:
    same = "" if row.changed else ' <span class="soft">the same before and after</span>'
    *earlier, prompt = row.x
    follow_up = html.message(row.follow_up)
    return (
        f'<article class="pair"><header><h2>{number}</h2>{same}</header><div class="turns halves">'
        + _earlier(earlier)
        + html.section("prompt", html.message(prompt.content), "wide")
        + html.section("before", html.message(row.before) or _empty())
        + html.section("after", html.message(row.after) or _empty())
        + (
            html.section("follow-up to the reply in the log", follow_up, "wide follow")
            if follow_up
            else ""
        )
        + "</div></article>"
    )


def _earlier(messages: Sequence[Message]) -> str:
    """The history before the prompt, folded."""
    if not messages:
        return ""
    count = f"{len(messages):,} earlier message{'s' * (len(messages) != 1)}"
    shown = (html.section(message.role, html.message(message.content)) for message in messages)
    return f'<div class="wide earlier">{html.fold(count, "".join(shown))}</div>'


def _empty() -> str:
    return '<span class="soft">(empty)</span>'
