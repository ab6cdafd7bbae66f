"""Text from strangers, safe to show: what a terminal would obey is written out.

    printable("\\x1b[31mred")     \\x1b[31mred          eleven characters, all of them visible

Control characters, marks that turn the direction of text, joiners, halves of surrogate pairs and
unassigned characters become escapes as Python writes them. Line ends and tabs stay.
"""

from __future__ import annotations

import unicodedata

KEPT = "\n\t"
HIDDEN = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")  # categories of Unicode


def printable(text: str) -> str:
    """`text` with nothing in it that a terminal would do other than show."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in KEPT or unicodedata.category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode()
