"""E-mail addresses and IPv6 addresses in a text."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

_LABEL = r"[0-9A-Za-zÀ-ÖØ-öø-ÿ](?:[0-9A-Za-zÀ-ÖØ-öø-ÿ-]{0,61}[0-9A-Za-zÀ-ÖØ-öø-ÿ])?"
_DOMAIN = re.compile(
    rf"@((?:{_LABEL}\.){{1,8}}(?:xn--[0-9A-Za-z-]{{2,59}}|[A-Za-z]{{2,24}}))(?![0-9A-Za-z_])"
)
LOCAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.!#$%&'*+/=?^_`{|}~-"
"""RFC 5322's atoms and dots; addresses in other scripts (RFC 6531) are not covered: most often such
letters before an address are the end of a sentence."""
EDGES = ".!#$%&'*/=?^`{|}~-"  # marks that begin no address in practice: quotes, paths, bullets
LONGEST_LOCAL = 64
FILES = frozenset({"png", "jpg", "jpeg", "gif", "svg", "webp", "ico"})
"""What follows the dot in the name of a picture such as icon@2x.png."""


def emails(text: str) -> Iterator[tuple[int, int, str]]:
    """name@example.com"""
    end = 0
    for match in _DOMAIN.finditer(text) if "@" in text else ():
        at = match.start()
        before = text[max(end, at - LONGEST_LOCAL) : at]
        local = before[len(before.rstrip(LOCAL)) :].lstrip(EDGES)
        label, _, last = match[1].rpartition(".")
        if not local or local.endswith(".") or (local == "git" and text[match.end() :][:1] == ":"):
            continue
        if last.lower() in FILES and re.fullmatch(r"\dx", label):
            continue
        end = match.end()
        yield at - len(local), end, "e-mail"


_HEXTETS = re.compile(r"[0-9A-Fa-f:](?<![\w:.][0-9A-Fa-f:])[0-9A-Fa-f:]{4,44}(?![\w:])", re.ASCII)
GLOBAL = "23"  # 2000::/3 is what networks assign


def ipv6(text: str) -> Iterator[tuple[int, int, str]]:
    """2001:db8::7, in full or shortened; not loopback, and not what may be code (a::b)."""
    if text.count(":") < 2:
        return
    for match in _HEXTETS.finditer(text):
        start, stop = match.span()
        if match[0][0] == ":" != match[0][1]:  # of the sentence
            start += 1
        if match[0][-1] == ":" != match[0][-2]:
            stop -= 1
        given = text[start:stop]
        if given.count(":") < 2:
            continue
        try:
            address = ipaddress.IPv6Address(given)
        except ValueError:
            continue
        groups = [group for group in given.split(":") if group]
        if len(groups) > 1 and not address.is_loopback:
            local = groups[0].lower()[:2] in ("fe", "fd")
            if local or (len(groups[0]) == 4 and groups[0][0] in GLOBAL):
                yield start, stop, "ip"
