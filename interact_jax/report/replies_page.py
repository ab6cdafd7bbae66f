"""`replies.html`: the model's replies before and after training, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interact_jax.report import html

TITLE = "Replies before and after training"
Row = tuple[str, str, str, str]
"""Prompt, reply before, reply after; what the user said next, or ""."""


def write_replies_page(folder: Path, rows: Sequence[Row], total: int) -> Path:
    """Write `replies.html` into `folder`; returns its path. `rows` are shown, out of `total`. The
    run's page links to it if this is written first."""
    folder.mkdir(parents=True, exist_ok=True)
    same = sum(before == after for _, before, after, _ in rows)
    body = [
        f'<p class="note">{html.count_shown(len(rows), total, "replies")} {same:,} of those shown '
        f"{'is' if same == 1 else 'are'} the same before and after.</p>"
    ]
    body += [_row(number, *row) for number, row in enumerate(rows, 1)]
    beside = [html.RUN] + [html.SIGNAL] * (folder / html.SIGNAL).exists()
    return html.write_page(folder / html.REPLIES, TITLE, body, beside)


def _row(number: int, prompt: str, before: str, after: str, follow_up: str) -> str:
    same = ' <span class="soft">the same before and after</span>' if before == after else ""
    return (
        f'<article class="pair"><header><h2>{number}</h2>{same}</header><div class="turns halves">'
        + html.section("prompt", html.message(prompt), "wide")
        + html.section("before", html.message(before) or _empty())
        + html.section("after", html.message(after) or _empty())
        + (
            html.section(
                "follow-up to the reply in the log", html.message(follow_up), "wide follow"
            )
            if follow_up
            else ""
        )
        + "</div></article>"
    )


def _empty() -> str:
    return '<span class="soft">(empty)</span>'
