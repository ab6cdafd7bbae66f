"""Output for the terminal: a reply token by token, measures before and after, win rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from interact_jax.data import thinking
from interact_jax.data.chat import ChatFormat
from interact_jax.printable import printable
from interact_jax.report import measures
from interact_jax.report.colour import on_black
from interact_jax.schema import Interaction
from interact_jax.signal import Scored


def visible(piece: str) -> str:
    """A token's text with everything visible; "∅" for part of a character."""
    return printable(piece).replace("\n", "⏎").replace("\t", "⇥") or "∅"


def token_table(scored: Scored, interaction: Interaction, chat: ChatFormat) -> Group:
    """The reply coloured by its signal, a row per token, and the follow-up (a rich renderable)."""
    title = f"reply, by signal{_reasoning(scored)}"
    return Group(
        _panel(f"{scored.id}: {interaction.x[-1].role}", interaction.x[-1].content),
        Panel(signal_text(scored, chat), title=title, title_align="left"),
        _panel("follow-up", interaction.o.content),
        signal_table(scored, chat),
    )


def signal_text(scored: Scored, chat: ChatFormat) -> Text:
    """The reply, each token coloured by its signal."""
    reply = Text()
    for piece, signal in zip(chat.pieces(scored.y.tolist()), scored.signal, strict=True):
        reply.append(printable(piece) or "∅", style=_style(signal))
    return reply


def signal_table(scored: Scored, chat: ChatFormat) -> Table:
    """A row per token of the reply."""
    pieces = chat.pieces(scored.y.tolist())
    table = Table("t", "token", "student", "teacher", "signal", box=None, pad_edge=False)
    for column in (0, 2, 3, 4):
        table.columns[column].justify = "right"
    rows = zip(pieces, scored.logp_student, scored.logp_teacher, scored.signal, strict=True)
    for t, (piece, student, teacher, signal) in enumerate(rows):
        style = _style(signal)
        table.add_row(
            str(t),
            Text(visible(piece), style=style),
            f"{student:.3f}",
            f"{teacher:.3f}",
            Text(f"{signal:+.3f}", style=style),
        )
    return table


def _style(signal: float) -> str:
    return f"white on {on_black(float(signal))}"


def _reasoning(scored: Scored) -> str:
    return f" ({thinking.NOTES[scored.reasoning]})" if scored.reasoning else ""


def _panel(title: str, text: str) -> Panel:
    # As `Text`: rich would interpret brackets in a plain string as markup.
    return Panel(Text(printable(text)), title=Text(printable(title)), title_align="left")


def before_after_lines(
    before: Mapping[str, float] | None, after: Mapping[str, float] | None
) -> list[str]:
    """A line per measure: before, after, and the difference; units as in `measures`."""
    if not before or not after:
        return []
    rows = [["", "before", "after", "difference"]]
    for name in after:
        old, new = measures.finite(before, name), measures.finite(after, name)
        values = measures.format_value(name, old), measures.format_value(name, new)
        rows.append([name, *values, measures.format_difference(name, old, new)])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([f"{name:{first}}", *(f"{c:>{w}}" for c, w in zip(cells, others, strict=True))])
        for name, *cells in rows
    ]


LEGEND = "decided: won or lost; first: votes for the reply shown first; void: no verdict"
NAME, SEEN = 24, 9  # columns for a candidate's name, and for interactions: the table fits into 80


def win_rate_lines(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per candidate of an evaluation: the interactions that a checkpoint had learned from,
    win rate in percent with ties as half, its standard error and 95 % interval, the share of pairs
    that were decided, how often the first position was chosen, and the pairs without a verdict;
    last what these words mean."""
    learned = any(each["interactions"] is not None for each in candidates)
    width = NAME - SEEN + 2 if learned else NAME
    head = ("", "learned", "win rate, %", "95% interval", "decided", "first", "void")
    rows = [_win_rate_row(each, width) for each in candidates]
    lines = [
        f"{name:{width}}"
        + (f"  {seen:>{SEEN}}" if learned else "")
        + f"  {rate:12}  {interval:>12}  {decided:>7}  {first:>6}  {void:>4}"
        for name, seen, rate, interval, decided, first, void in (head, *rows)
    ]
    return [*lines, LEGEND]


def _win_rate_row(each: Mapping[str, Any], width: int) -> tuple[str, ...]:
    name = printable(each["name"]).replace("\n", " ")
    name = name if len(name) <= width else f"…{name[1 - width :]}"
    seen = "" if each["interactions"] is None else f"{each['interactions']:,}"
    rate, first = each["win_rate"], each["first_chosen"]
    void = str(each["unparsable"] + each["failed"])
    if rate is None:
        return (name, seen, "  no verdict", "", "", "", void)
    error = "" if rate["error"] is None else f" ± {100 * rate['error']:.1f}"
    return (
        name,
        seen,
        f"{100 * rate['value']:5.1f}{error}",
        f"{100 * rate['low']:.1f}–{100 * rate['high']:.1f}",
        f"{each['coverage']['value']:.1%}",
        "–" if first is None else f"{first['value']:.1%}",
        void,
    )
