"""Building blocks of the pages: one HTML file each, nothing loaded from elsewhere, and no scripts
but the page's own, if it has one.

Text in them comes from others, so all of it goes through `escape_text` or, within an attribute,
`escape_attribute`. Colours are variables, set by the reader's light or dark scheme; pictures use
them too.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from interact_jax import places
from interact_jax.printable import printable
from interact_jax.report.style import LIGHT_VARIABLES, PICTURE_STYLE, STYLE

RUN, SIGNAL, REPLIES = "index.html", "signal.html", "replies.html"
NAMES = {
    RUN: "The run",
    SIGNAL: "The signal, token by token",
    REPLIES: "Replies before and after",
}
"""The pages of a report, which link to one another."""

JOINERS = "\u200c\u200d"  # used in Persian, Hindi and many emoji
HEAD = 700  # characters of a long text that are shown before the fold
SPARED = 300  # a rest of at most this many is not folded

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Lets the browser only display the page, even if something got past the escaping."""


def write_page(
    file: Path,
    title: str,
    body: Iterable[str],
    links: Sequence[str] = (),
    *,
    style: str = "",
    script: str = "",
) -> Path:
    """Write a page; `links` are the report's pages that exist beside it, `style` and `script` what
    it has besides the common style. The browser runs that one script and no other."""
    beside = "".join(f'<a href="{page}">{NAMES[page]}</a>' for page in links)
    nav = f'<nav aria-label="Pages of this report">{beside}</nav>' if beside else ""
    places.write(
        file,
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape_attribute(title)}</title><style>{STYLE}{style}</style></head>\n"
        f"<body>\n{nav}\n<main>\n<h1>{escape_text(title)}</h1>\n"
        + "\n".join(body)
        + "\n</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body></html>\n",
    )
    return file


def _policy(script: str) -> str:
    if not script:
        return POLICY
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{POLICY}; script-src 'sha256-{digest}'"


# ------------------------------------------------------------------------------------------ text


def escape_text(text: str) -> str:
    """Text from others as HTML. Characters that are invisible, or change the direction of what
    follows, are escaped and marked."""
    text = text.replace("\r\n", "\n")
    return escape(text) if text.isprintable() else "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    escaped = character if character in JOINERS else printable(character)
    return (
        escape(escaped) if escaped == character else f'<span class="odd">{escape(escaped)}</span>'
    )


def escape_attribute(text: str) -> str:
    """The same within an attribute, where nothing can be marked."""
    return escape(printable(text))


def message(text: str) -> str:
    """A message as HTML, its end folded if it is long."""
    if len(text) <= HEAD + SPARED:
        return escape_text(text)
    space = text.rfind(" ", HEAD // 2, HEAD) + 1  # do not split a word
    head, rest = text[: space or HEAD], text[space or HEAD :]
    return escape_text(head) + fold(f"{len(rest):,} more characters", escape_text(rest))


def fold(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def section(label: str, content: str, kind: str = "") -> str:
    """One message of a conversation, under the name of its speaker."""
    return (
        f'<section class="{kind}"><span class="label">{label}</span>'
        f'<div class="said" dir="auto">{content}</div></section>'
    )


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), kind: str = "") -> str:
    """Rows of HTML; the first cell of each is its heading."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f'<div class="scroll"><table class="{kind}">{thead}<tbody>{body}</tbody></table></div>'


def count_shown(count: int, total: int, what: str) -> str:
    """ "All 32 replies are shown." or "32 of 4,096 replies are shown." """
    if count >= total:
        return f"All {total:,} {what} are shown." if total != 1 else f"1 of 1 {what} is shown."
    return f"{count:,} of {total:,} {what} are shown."


# -------------------------------------------------------------------------------------- pictures


def save_picture(folder: Path, name: str, figure: Figure) -> None:
    """Save a figure as NAME.png, for use elsewhere."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # ids in scripts that the font lacks
        figure.savefig(buffer, format="png", dpi=130)
    places.write(folder / f"{name}.png", buffer.getvalue())


def inline_figure(figure: Figure, says: str, caption: str = "") -> str:
    """A figure within the page, in the page's colours; `says` is its text alternative."""
    figcaption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{_svg(figure, says)}{figcaption}</figure>"


def standalone_figure(figure: Figure, says: str) -> str:
    """A figure as an SVG file of its own, in the colours of whichever scheme it is looked at in;
    its background is its own too, since a page may be in the other one."""
    return _svg(figure, says).replace(
        ">", f' xmlns="http://www.w3.org/2000/svg" {LINKS}><style>{PICTURE_STYLE}</style>', 1
    )


LINKS = 'xmlns:xlink="http://www.w3.org/1999/xlink"'


def _svg(figure: Figure, says: str) -> str:
    """The element, without a style: its colours are variables."""
    buffer = io.StringIO()
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": says,
    }  # ids differ within a page
    with matplotlib.rc_context(settings):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", facecolor="none", metadata=nothing)
    svg = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    inside = svg[svg.index(">", box.start()) + 1 :]
    inside = re.sub(
        r"<style.*?</style>|<!--.*?-->", "", inside, flags=re.DOTALL
    )  # the page has its own
    inside = re.sub(
        "#[0-9a-f]{6}",
        lambda c: f"var(--{LIGHT_VARIABLES[c[0]]})" if c[0] in LIGHT_VARIABLES else c[0],
        inside,
    )
    return f'<svg role="img" aria-label="{escape_attribute(says)}" {box[0]}>{inside.strip()}'
