"""What every page is made of: one HTML file, nothing loaded from anywhere, no scripts.

Text in it comes from strangers, so all of it goes through `shown` or, inside of an attribute,
`attribute`. Colours are variables, which the reader's light or dark scheme sets; pictures use them.
"""

from __future__ import annotations

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
from interact_jax.report.style import LIGHT_VARIABLES, STYLE

RUN, SIGNAL, REPLIES = "index.html", "signal.html", "replies.html"
NAMES = {
    RUN: "The run",
    SIGNAL: "The signal, token by token",
    REPLIES: "Replies before and after",
}
"""The pages of a report, which link one another."""

JOINERS = "\u200c\u200d"  # Persian, Hindi and many emoji are written with them
HEAD = 700  # characters of a long text that stand in front of the fold
SPARED = 300  # what is no longer than this is not worth a fold

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may do for the page: nothing but show it, whatever got past the escaping."""


def write_page(file: Path, title: str, body: Iterable[str], links: Sequence[str] = ()) -> Path:
    """Write a page; `links` are those of the report's pages that are there beside it."""
    beside = "".join(f'<a href="{page}">{NAMES[page]}</a>' for page in links)
    nav = f'<nav aria-label="Pages of this report">{beside}</nav>' if beside else ""
    places.write(
        file,
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{attribute(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{nav}\n<main>\n<h1>{shown(title)}</h1>\n"
        + "\n".join(body)
        + "\n</main>\n</body></html>\n",
    )
    return file


# ------------------------------------------------------------------------------------------ text


def shown(text: str) -> str:
    """Text of strangers as HTML. Characters that cannot be seen, or turn the direction of what
    follows, are written out and marked."""
    text = text.replace("\r\n", "\n")
    return escape(text) if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    told = character if character in JOINERS else printable(character)
    return escape(told) if told == character else f'<span class="odd">{escape(told)}</span>'


def attribute(text: str) -> str:
    """The same inside of an attribute, where nothing can be marked."""
    return escape(printable(text))


def said(text: str) -> str:
    """What somebody said, its end folded where it is long."""
    if len(text) <= HEAD + SPARED:
        return shown(text)
    space = text.rfind(" ", HEAD // 2, HEAD) + 1  # not in the middle of a word
    head, rest = text[: space or HEAD], text[space or HEAD :]
    return shown(head) + folded(f"{len(rest):,} more characters", shown(rest))


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def part(label: str, content: str, kind: str = "") -> str:
    """One side of a conversation, under the name of who speaks."""
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


def shown_of(count: int, total: int, what: str) -> str:
    """ "All 32 replies are shown." or "32 of 4,096 replies are shown." """
    if count >= total:
        return f"All {total:,} {what} are shown." if total != 1 else f"1 of 1 {what} is shown."
    return f"{count:,} of {total:,} {what} are shown."


# -------------------------------------------------------------------------------------- pictures


def picture(folder: Path, name: str, figure: Figure) -> None:
    """Write NAME.png, for use elsewhere."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # ids in writings that the font does not have
        figure.savefig(buffer, format="png", dpi=130)
    places.write(folder / f"{name}.png", buffer.getvalue())


def drawn(figure: Figure, says: str, caption: str = "") -> str:
    """A figure within the page, in the page's colours; `says` is for those who do not see it."""
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
    inside = re.sub(r"<style.*?</style>|<!--.*?-->", "", inside, flags=re.DOTALL)  # the page's own
    inside = re.sub(
        "#[0-9a-f]{6}",
        lambda c: f"var(--{LIGHT_VARIABLES[c[0]]})" if c[0] in LIGHT_VARIABLES else c[0],
        inside,
    )
    told = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f'<figure><svg role="img" aria-label="{attribute(says)}" {box[0]}>{inside.strip()}{told}'
        "</figure>"
    )
