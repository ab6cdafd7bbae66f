"""Where personal data and keys stand in a text.

    find("mail ann@example.com or 030 1234567")     Span(5, 20, "e-mail"), Span(24, 35, "phone")

Each kind has a pattern for candidates that begins with something rare, and a check: the issuer's
number and Luhn's sum for cards, country and mod 97 for IBANs, `ipaddress` for IPv6, layout and what
stands before it for phone numbers. Quantifiers are bounded or possessive, so that time is linear in
the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator

from interact_jax.prepare.filters.addresses import emails, ipv6
from interact_jax.prepare.filters.keys import keys
from interact_jax.prepare.filters.numbers import ibans, numbers


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """Characters `start` to `stop` of a text are of a kind."""

    start: int
    stop: int
    kind: str


KINDS = ("e-mail", "phone", "card", "iban", "ip", "key")
FINDERS: tuple[tuple[frozenset[str], Callable[[str], Iterator[tuple[int, int, str]]]], ...] = (
    (frozenset({"key"}), keys),
    (frozenset({"e-mail"}), emails),
    (frozenset({"iban"}), ibans),
    (frozenset({"ip"}), ipv6),
    (frozenset({"card", "ip", "phone"}), numbers),
)
"""Those that say more come first: what two of them find is of the first one's kind."""


def find(text: str, kinds: Collection[str] = KINDS) -> list[Span]:
    """All of the given kinds, in the order of the text, without overlaps."""
    found: list[Span] = []
    for among, finder in FINDERS:
        if among.isdisjoint(kinds):
            continue
        new = [Span(*one) for one in finder(text)]
        found += _apart(new, found) if found else new
    return [span for span in sorted(found) if span.kind in kinds]


def _apart(new: list[Span], taken: list[Span]) -> list[Span]:
    """Those of `new` that overlap none of `taken`; both are sorted here and gone through once."""
    kept, place, taken = [], 0, sorted(taken)
    for span in new:
        while place < len(taken) and taken[place].stop <= span.start:
            place += 1
        if place == len(taken) or taken[place].start >= span.stop:
            kept.append(span)
    return kept


def replace(text: str, spans: list[Span]) -> str:
    """The text with "[kind]" in place of each span."""
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], f"[{span.kind}]"]
        end = span.stop
    return "".join([*parts, text[end:]])
