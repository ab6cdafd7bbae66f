"""What is shown of a reply while it grows, and how lines break on a terminal."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from rich.cells import cell_len

from interact_jax.chatting.screen import ERASE, Wrapper
from interact_jax.chatting.stream import TextStream

TEXT = (
    "Grüße 🙂, 日本語 is fine. So is a verylongwordthatfitsonnolineatall, and this.\n\nEND\tis it."
)


def decode(ids):
    return bytes(ids).decode(errors="replace")


def test_characters_of_several_tokens_come_whole():
    """Every byte is a token."""
    ids, stream = list(TEXT.encode()), TextStream(decode)
    pieces = [stream.more(ids[:n]) for n in range(1, len(ids) + 1)]
    assert "".join(pieces) + stream.rest(TEXT) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(map(bool, pieces)) == len(TEXT)  # each as soon as it is there


def test_what_ends_in_the_middle_of_a_character_shows_it_at_the_end():
    ids, stream = list("é".encode())[:1], TextStream(decode)
    assert stream.more(ids) == ""
    assert stream.rest(decode(ids)) == "\ufffd"


@pytest.mark.parametrize("text", ["ab ENDE", "a EN", "a END", "EEND", "ENED"])
def test_a_stop_text_is_never_shown_and_what_only_begins_like_one_is(text):
    stream, kept = TextStream(decode, ("END", "NEVER")), text.partition("END")[0]
    shown, ids = "", list(text.encode())
    for n in range(1, len(ids) + 1):
        if "END" in decode(ids[:n]):
            break  # here the sampler ends the reply
        shown += stream.more(ids[:n])
        assert kept.startswith(shown)
        assert n < 2 or kept[: n - 2] in shown  # held back: two characters at most
    assert shown + stream.rest(kept) == kept


def test_a_decoder_that_changes_earlier_text_loses_nothing():
    texts = {1: "ab", 2: "xyz"}
    stream = TextStream(lambda ids: texts[len(ids)])
    assert stream.more([1]) == "ab"
    assert stream.more([1, 2]) == ""
    assert stream.rest("xyz") == "\nxyz"


def screen_after(written):
    """The lines of a terminal without an edge: what does not fit would show as a long line."""
    lines, column = [""], 0
    for back, erased, character in re.findall(r"\x1b\[(\d+)D|(\x1b\[K)|(.)", written, re.DOTALL):
        if back:
            column -= int(back)
            assert column >= 0
        elif erased:
            while cell_len(lines[-1]) > column:
                lines[-1] = lines[-1][:-1]
        elif character == "\n":
            lines.append("")
            column = 0
        else:
            lines[-1] += character
            column += cell_len(character)
    return lines


@pytest.mark.parametrize("width", [5, 12, 40, 80])
def test_lines_break_between_words_however_the_text_is_cut(width):
    rng, wrapper = random.Random(width), Wrapper()
    written, at = "", 0
    while at < len(TEXT):
        step = rng.randint(1, 5)
        written += wrapper.wrap(TEXT[at : at + step], width)
        at += step
    lines = screen_after(written)
    assert all(cell_len(line) < width for line in lines)
    assert written == written.replace("\x1b[0D", "") and written.count(ERASE) < len(lines)
    assert "".join(lines).replace(" ", "") == re.sub(r"[ \n\t]", "", TEXT)
    for line, following in itertools.pairwise(lines):
        for word in ("So", "fine.", "this."):
            if cell_len(word) < width:
                assert not any(
                    line.endswith(word[:n]) and following.startswith(word[n:])
                    for n in range(1, len(word))
                )
