"""Keys, tokens and passwords in a text: those that are known by their form, or by what names them.

The forms are those that the services document, as scanners of secrets collect them.
"""

from __future__ import annotations

import collections
import itertools
import math
import re
from collections.abc import Iterator

FORMS = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])",  # AWS, access key id
    r"gh[opsur]_[0-9A-Za-z]{36,255}+",  # GitHub
    r"github_pat_\w{22,255}+",
    r"glpat-[\w-]{20,64}+",  # GitLab
    r"sk-[\w-]{20,255}+",  # OpenAI, Anthropic, OpenRouter
    r"[prs]k_(?:live|test)_[0-9A-Za-z]{10,128}+",  # Stripe
    r"whsec_[0-9A-Za-z]{24,64}+",
    r"xox[a-z]-[0-9A-Za-z-]{10,255}+",  # Slack
    r"xapp-[0-9A-Za-z-]{20,255}+",
    r"hooks\.slack\.com/services/[0-9A-Za-z/]{20,80}+",
    r"AIza[\w-]{35}(?![\w-])",  # Google
    r"GOCSPX-[\w-]{28}(?![\w-])",
    r"ya29\.[\w-]{20,512}+",
    r"hf_[0-9A-Za-z]{30,64}+",  # Hugging Face
    r"npm_[0-9A-Za-z]{36}(?![0-9A-Za-z])",
    r"pypi-[\w-]{50,255}+",
    r"dop_v1_[0-9a-f]{64}",  # DigitalOcean
    r"shpat_[0-9a-fA-F]{32}",  # Shopify
    r"SG\.[\w-]{16,32}+\.[\w-]{16,64}+",  # SendGrid
    r"eyJ[\w-]{8,4096}+\.eyJ[\w-]{8,8192}+\.[\w-]{0,2048}+",  # JSON Web Tokens
    r"gsk_[0-9A-Za-z]{32,64}+",  # Groq
    r"nvapi-[\w-]{32,80}+",  # NVIDIA
    r"r8_[0-9A-Za-z]{32,64}+",  # Replicate
    r"key-[0-9a-z]{32}(?![0-9a-z])",  # Mailgun
    r"(?:[Bb]earer|[Tt]oken) [\w.~+/-]{20,1024}+",
)
_FORMS = re.compile(r"(?<![0-9A-Za-z_])(?:" + "|".join(FORMS) + ")", re.ASCII)
# The beginnings of FORMS: searched without looking around, which is ten times as fast.
_SIGNS = re.compile(
    r"A(?:KIA|SIA|Iza)|g(?:h[opsur]_|ithub_pat_|lpat-)|[prs]k[-_]|whsec_|xox[a-z]-|xapp-"
    r"|hooks\.slack|GOCSPX-|ya29\.|hf_|npm_|pypi-|dop_v1_|shpat_|SG\.|eyJ|gsk_|nvapi-|r8_|key-"
    r"|[Bb]earer |[Tt]oken "
)
_BLOCK = re.compile(r"-----BEGIN (?:[0-9A-Z]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----", re.ASCII)
_BLOCK_END = "-----END"
_BODY = re.compile(r"[0-9A-Za-z+/=\s\\:,-]{0,20000}+", re.ASCII)  # where the end is missing
_IN_URL = re.compile(r"://[^\s/:@\"'<>]{0,64}+:([^\s/@\"'<>]{1,128}+)@")
_NAMED = re.compile(
    r"(?:secret|token|passw(?:or)?d|passwd|pwd|api_?-?key|access_?-?key|account_?-?key|auth_?-?key|credential)"
    r"[\w-]{0,24}+[\"']?\s{0,4}+(?:=|:|=>)\s{0,4}+"
    r"(?:([\"'])([^\s\"']{8,255}+)\1|([0-9A-Za-z+/=_.~-]{16,255}+))",
    re.ASCII | re.IGNORECASE,
)
_PASSWORD = re.compile(
    r"(?:passwor[dt]|passwd|mot de passe|contraseña|密码)(?:\s?(?:[=:：]|is|ist|est|es|是))\s?"
    r"[\"'“]?([^\s\"'”()，。]{6,64}+)(?!\()",
    re.IGNORECASE,
)
_NAMES = (
    "ecret",
    "oken",
    "assw",
    "pwd",
    "key",
    "Key",
    "redential",
    "ECRET",
    "OKEN",
    "ASSW",
    "PWD",
    "KEY",
)
_PASSWORDS = ("assw", "ASSW", "mot de passe", "ontrase", "密码")
PLACEHOLDER = re.compile(
    r"(?i)your|example|changeme|xxxx|\*\*\*\*|\.\.\.|<|\$\{|env|none|null|test"
)
TELEGRAM = re.compile(r"(?<![0-9A-Za-z])\d{8,10}:AA[\w-]{33}(?![\w-])", re.ASCII)
LONG = re.compile(r"(?<![0-9A-Za-z+/=_.:-])[0-9A-Za-z+/_-]{20,200}+={0,2}(?![0-9A-Za-z+/=_-])")
TURNS = 0.4  # of the characters of a random word: upper case, lower case or digit, unlike the last


def keys(text: str) -> Iterator[tuple[int, int, str]]:
    """All keys that are known by their form or by what names them."""
    spans = [*_blocks(text), *_formed(text), *_named(text)]
    end = 0
    for start, stop in sorted(spans):
        if start >= end:
            yield start, stop, "key"
            end = stop


def _formed(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for sign in _SIGNS.finditer(text):
        match = _FORMS.match(text, sign.start()) if sign.start() >= end else None
        if not match:
            continue
        end = match.end()
        words = match[0].startswith(("sk-", "key-")) or " " in match[0]  # sk-learn; bearer of-news
        if not words or any(map(str.isdigit, match[0])):
            yield match.span()
    if ":AA" in text:
        for match in TELEGRAM.finditer(text):
            yield match.span()


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """PEM and PGP blocks, up to their end or, where that was cut off, as far as they go."""
    start, more = 0, "PRIVATE KEY" in text
    while more and (match := _BLOCK.search(text, start)):
        end = text.find(_BLOCK_END, match.end())
        if end < 0:
            body = _BODY.match(text, match.end())
            stop = body.end() if body else match.end()
        else:
            line = text.find("-----", end + len(_BLOCK_END))
            stop = len(text) if line < 0 else line + len("-----")
        yield match.start(), stop
        start = stop


def _named(text: str) -> Iterator[tuple[int, int]]:
    """The value of what is called a password, a secret, a token or a key; and of user:password in
    the address of a server."""
    if "://" in text and "@" in text:
        for match in _IN_URL.finditer(text):
            if not PLACEHOLDER.search(match[1]):
                yield match.span(1)
    for match in _NAMED.finditer(text) if any(name in text for name in _NAMES) else ():
        group = 2 if match[2] else 3
        value = match[group]
        unquoted = group == 3 and not (any(map(str.isdigit, value)) and entropy(value) > 3)
        plain = unquoted or value.isalpha()
        words = "_" in value and value.replace("_", "").isalpha()
        if not (plain or words or PLACEHOLDER.search(value)):
            yield match.span(group)
    for match in _PASSWORD.finditer(text) if any(name in text for name in _PASSWORDS) else ():
        value = match[1].rstrip(".,;!?")
        mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
        if mixed and not PLACEHOLDER.search(value):
            yield match.start(1), match.start(1) + len(value)


def random_looking(text: str, bits: float) -> Iterator[tuple[int, int, str]]:
    """Words of 20 characters or more that mix upper case, lower case and digits from one character
    to the next, with an entropy of at least `bits` a character. Random characters of base64 have
    4.2 at 24, 4.8 at 40; names in code have 4 and change less often; hashes in hexadecimal lack one
    of the cases; addresses on the web are passed over."""
    for match in LONG.finditer(text):
        kinds = [(c.isdigit(), c.isupper()) for c in match[0]]
        turns = sum(a != b for a, b in itertools.pairwise(kinds))
        if len({*kinds}) == 3 and turns >= TURNS * len(kinds) and entropy(match[0]) >= bits:
            yield match.start(), match.end(), "key"


def entropy(text: str) -> float:
    """Bits a character, by the frequencies of its characters."""
    counts = collections.Counter(text).values()
    return math.log2(len(text)) - sum(n * math.log2(n) for n in counts) / len(text)
