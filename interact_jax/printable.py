"""Text from strangers, safe to show: what a terminal would obey is written out.

    printable("\\x1b[31mred")     \\x1b[31mred          eleven characters, all of them visible

Control characters, marks that turn the direction of text, joiners, halves of surrogate pairs and
unassigned characters become escapes as Python writes them. Line ends and tabs stay.
"""

from __future__ import annotations

import unicodedata

KEPT = "\n\t"
LONGEST_LINE = 2000  # characters of a message's line
HIDDEN = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")  # categories of Unicode


def count(number: int, thing: str) -> str:
    """ "1 file", "2,540 files"."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def printable(text: str) -> str:
    """`text` with nothing in it that a terminal would do other than show."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in KEPT or unicodedata.category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode()


def presentable(message: str) -> str:
    """`printable`, for a message: the middle of endless lines is left out, which would push what is
    to be done out of sight."""
    half = LONGEST_LINE // 2
    return "\n".join(
        line if len(line) <= LONGEST_LINE else f"{line[:half]} [...] {line[-half:]}"
        for line in printable(message).split("\n")
    )
