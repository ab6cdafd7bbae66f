"""Output of a chat: replies as they grow, wrapped on a terminal and as they are elsewhere.

On a terminal everything is shown there; elsewhere replies and answers to commands are standard
output, and remarks are standard error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from interact_jax.printable import printable

TAB = "    "
LEFT, ERASE = "\x1b[{}D", "\x1b[K"  # the cursor so many columns back; the line from there on


class Wrapper:
    """Breaks lines between words while they are written, character by character.

    A word that turns out too long for its line is erased and begins the next one. Wide characters
    may stand on either side of a break.

        width 8     "to the mo"  ->  "to the " "mo" erased, "\\n" "mo"
    """

    def __init__(self) -> None:
        self._column, self._word = 0, ""

    def wrap(self, text: str, width: int) -> str:
        """What to write for more `text` on lines of `width` columns; the last column stays free,
        since the cursor waits there in a way that terminals differ in."""
        return "".join(self._character(c, width - 1) for c in text.replace("\t", TAB))

    def _character(self, character: str, room: int) -> str:
        if character == "\n":
            self._column, self._word = 0, ""
            return character
        columns = cell_len(character)
        if self._column + columns <= room:
            self._take(character, columns)
            return character
        if character == " ":  # the break takes its place
            self._column, self._word = 0, ""
            return "\n"
        word, length = self._word, cell_len(self._word)
        moves = columns < 2 and 0 < length < self._column
        self._column, self._word = (length, word) if moves else (0, "")
        self._take(character, columns)
        if moves:
            return f"{LEFT.format(length)}{ERASE}\n{word}{character}"
        return f"\n{character}"

    def _take(self, character: str, columns: int) -> None:
        self._column += columns
        self._word = "" if character == " " or columns > 1 else self._word + character


class Screen:
    """Where a chat is shown. `coloured` says whether it can show colours."""

    def __init__(self, out: TextIO, remarks: TextIO):
        self._out, self._remarks = out, remarks
        self._console = Console(file=out, highlight=False)
        self.terminal = out.isatty() and os.environ.get("TERM") != "dumb"
        console = self._console
        self.coloured = console.color_system is not None and not console.no_color

    @contextlib.contextmanager
    def reply(self) -> Iterator[Any]:
        """A function that shows a piece of the reply. Its line is complete at the end, whatever
        ends it."""
        wrapper, last = Wrapper(), "\n"

        def show(piece: str) -> None:
            nonlocal last
            piece = printable(piece)
            shown = wrapper.wrap(piece, self._console.width) if self.terminal else piece
            self._write(shown)
            last = piece[-1:] or last

        try:
            yield show
        finally:
            if last != "\n":
                self._write("\n")

    def say(self, text: str) -> None:
        """What a command answers."""
        self.print(Text(printable(text)))

    def remark(self, text: str) -> None:
        """What is to be known besides."""
        if self.terminal:
            self.print(Text(printable(text), style="dim" if self.coloured else ""))
        else:
            print(printable(text), file=self._remarks, flush=True)

    def print(self, *renderables: Any) -> None:
        """Show text, tables and the like of rich."""
        soft = not self.terminal  # lines of a script's output are not broken
        for renderable in renderables:
            self._console.print(renderable, soft_wrap=soft and isinstance(renderable, Text))
        self._out.flush()

    def table(self, rows: Any) -> None:
        """Two columns, the second one wrapped."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        for left, right in rows:
            table.add_row(Text(left), Text(right))
        self.print(table)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
