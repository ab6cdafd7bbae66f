"""Text from others, made safe to show: terminal control characters are escaped.

    printable("\\x1b[31mred")     \\x1b[31mred          eleven characters, all of them visible

Control characters, marks that change the direction of text, joiners, lone surrogates and unassigned
characters become Python escapes. Line ends and tabs stay.
"""

from __future__ import annotations

import unicodedata

KEPT = "\n\t"
LONGEST_LINE = 2000  # characters of a message's line
HIDDEN = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")  # categories of Unicode


def count(number: int, thing: str, things: str = "") -> str:
    """ "1 file", "2,540 files"."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def format_parameters(number: int) -> str:
    """A model's number of parameters: "1.0M", "8.19B"."""
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


SINGULARS = {
    "contexts": "context",
    "conversations": "conversation",
    "follow-ups": "follow-up",
    "interactions": "interaction",
    "reactions": "reaction",
    "replies": "reply",
    "windows": "window",
}


def count_reason(number: int, reason: str) -> str:
    """ "1 reply cut: ...", "2 replies cut: ..." of the reason "replies cut: ..."; reasons that
    begin with another word stay as they are."""
    first, space, rest = reason.partition(" ")
    word = SINGULARS.get(first, first) if number == 1 else first
    return f"{number:,} {word}{space}{rest}"


def printable(text: str) -> str:
    """`text` without anything that a terminal would interpret."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character in KEPT or unicodedata.category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode()


def presentable(message: str) -> str:
    """`printable`, for a message: very long lines lose their middle, so that they do not push the
    remedy out of sight."""
    half = LONGEST_LINE // 2
    return "\n".join(
        line if len(line) <= LONGEST_LINE else f"{line[:half]} [...] {line[-half:]}"
        for line in printable(message).split("\n")
    )
