"""What can be shown of a reply while it grows.

ids so far     text of them     shown
7              "Gr\\ufffd"        "Gr"           a character of two tokens comes whole
7 9            "Grü"            "ü"
7 9 4          "Grü EN"         " "            "EN" may become the stop text "END"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

PART = "\ufffd"  # how decoders show part of a character


class TextStream:
    """The text of one reply, piece by piece; `stop` are texts that end it and are not shown."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        self._decode, self._stop = decode, stop
        self._shown = ""

    def more(self, ids: Sequence[int]) -> str:
        """What can be shown, of the ids so far, in addition to what was shown before."""
        text = self._decode(ids).rstrip(PART)
        return self._beyond(text[: len(text) - self._held_back(text)])

    def rest(self, text: str) -> str:
        """What is left to show of the complete text."""
        if not text.startswith(self._shown):  # a decoder that changes earlier text
            return f"\n{text}"
        return self._beyond(text)

    def _beyond(self, text: str) -> str:
        if not text.startswith(self._shown):
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new

    def _held_back(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        lengths = (
            length
            for stop in self._stop
            for length in range(1, len(stop))
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)
