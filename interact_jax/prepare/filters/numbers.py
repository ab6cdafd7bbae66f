"""Phone numbers, card numbers, IBANs and IPv4 addresses: what consists of groups of digits."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

# A run of groups: digits, and up to three marks between them.
_RUN = re.compile(r"\d(?:[ .\-/()\u00a0\u2009\u202f\u2010-\u2013]{0,3}\d){3,39}", re.ASCII)
_DIGIT = re.compile(r"[0-9]")
_GROUP = re.compile(r"\d+", re.ASCII)
MOST_GROUPS = 12  # of a run that are looked at together
BEFORE = 28  # characters in front of a number that say what it is

_PHONE_WORDS = re.compile(
    r"(?:phone|fon\b|(?:ruf|fon|handy|mobil)nummer|\btel\b|\bt[eé]l[eé]|\bmobil|\bmóvil|\bm[oó]vil|\bcell\b|\bcall\b|\bfax\b|\bhandy"
    r"|\bwhats ?app|\bportable|\bappel|\bllam|\brufnummer|\banrufen|\bsms\b|\btext me"
    r"|电话|手机|致电|拨打|联系方式|微信|電話)",
    re.IGNORECASE,
)
_OTHER_WORDS = re.compile(
    r"(?:\border|\w{3}nummer|\binvoice|\bticket|\bisbn|\bissn|\btracking|\br[eé]f|\bserial|\bid\b|\bno\."
    r"|\bnr\.|\bversion|\bversión|\bbestell|\brechnung|\bauftrag|\bcommande|\bfacture|\bpedido"
    r"|\bfactura|\bnúmero de|\bnuméro de|\bprice|\bpreis|\bprix|\bprecio|\bpopulation|\bart\."
    r"|\bstep|\bseed|\bpid\b|\bcommit|\brelease|\bbuild|\bfirmware|\bsection|\bkapitel"
    r"|订单|发票|编号|单号|版本|价格|快递)",
    re.IGNORECASE,
)
_MONEY = re.compile(
    r"\s?(?:[$€£¥%]|USD|EUR|euros?\b|dollars?\b|元|円|pesos\b|people\b|bytes\b)", re.I
)
_MONEY_BEFORE = re.compile(r"(?:[$€£¥]|USD|EUR)\s?$")
_DATE = re.compile(
    r"(?:(?:19|20)\d\d[-/. ]?(?:0[1-9]|1[0-2])[-/. ]?(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])[-/.](?:0?[1-9]|[12]\d|3[01])[-/.](?:19|20)\d\d)(?!\d)"
)

# (first digits of the issuer, lengths): Visa, Mastercard, American Express, Discover, JCB, Diners,
# UnionPay, Maestro; ISO/IEC 7812.
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})$|5[1-5]\d{14}$|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}$"
    r"|3[47]\d{13}$|6(?:011|4[4-9]\d|5\d\d)\d{12}$|35(?:2[89]|[3-8]\d)\d{12}$"
    r"|3(?:0[0-5]|[689]\d)\d{11}$|62\d{14,17}$|(?:50|5[6-8]|63|67)\d{14,17}$"
)
_LAYOUTS = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (6, 13), (4, 4, 4, 1), (4, 4, 5)}
BREAKS = (". ", ".. ", " / ", "/ ", " /", ") (")
"""Marks that part two numbers."""
CALLING = re.compile(
    r"1[2-9]|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|2[1-69]\d|3[578]\d|42\d|5[09]\d|6[789]\d|8[0578]\d|9[679]\d"
)
"""ITU-T E.164: what international numbers begin with."""

IBAN_LENGTH = dict(
    re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24"
        "FI18FO18FR27GB22GE22GI23GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32"
        "LI21LT20LU20LV21LY25MC27MD24ME22MK19MR27MT31MU30NL18NO15PK24PL28PS29PT25QA29RO24RS22"
        "SA24SC31SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20",
    )
)
"""Country -> characters, by SWIFT's registry of IBANs."""
_IBAN = re.compile(
    r"[A-Za-z](?<![0-9A-Za-z][A-Za-z])[A-Za-z]\d\d[ \-.\u00a0]?[0-9A-Za-z]", re.ASCII
)
_IBAN_MARKS = " -.\u00a0"


def ibans(text: str) -> Iterator[tuple[int, int, str]]:
    """DE89 3704 0044 0532 0130 00, grouped or not."""
    for match in _IBAN.finditer(text) if _DIGIT.search(text) else ():
        if stop := _iban_end(text, match.start()):
            yield match.start(), stop, "iban"


def _iban_end(text: str, start: int) -> int:
    """Where an IBAN that begins at `start` ends; 0 where none does."""
    length = int(IBAN_LENGTH.get(text[start : start + 2].upper(), 0))
    characters = list[str]()
    at, marks = start, 0
    while len(characters) < length and at < len(text):
        if text[at].isascii() and text[at].isalnum():
            characters.append(text[at].upper())
            marks = 0
        elif text[at] in _IBAN_MARKS and not marks:
            marks = 1
        else:
            return 0
        at += 1
    if not length or len(characters) < length or _goes_on(text[at : at + 1]):
        return 0
    rotated = "".join(characters[4:] + characters[:4])
    return at if int("".join(str(int(c, 36)) for c in rotated)) % 97 == 1 else 0


def numbers(text: str) -> Iterator[tuple[int, int, str]]:
    """Card numbers, IPv4 addresses and phone numbers, the likeliest of them where a number may be
    several."""
    for run in _RUN.finditer(text) if _DIGIT.search(text) else ():
        start = run.start()
        groups = [(start + g.start(), start + g.end()) for g in _GROUP.finditer(run[0])]
        first = len(groups) if _is_like_iban(text, groups) else 0
        while first < len(groups):
            taken = _longest(text, groups, first)
            if taken is None:
                first += 1
                continue
            stop, kind = taken
            yield _opening(text, groups[first][0], kind), groups[stop - 1][1], kind
            first = stop


def _is_like_iban(text: str, groups: list[tuple[int, int]]) -> bool:
    """Whether two letters, two digits and groups of four say that this was meant to be an account,
    though its check digits are wrong."""
    start = groups[0][0]
    sizes = [b - a for a, b in groups]
    letters = text[max(0, start - 2) : start]
    return letters.isalpha() and sizes[0] == 2 and len(sizes) > 3 and {*sizes[1:-1]} == {4}


def _longest(text: str, groups: list[tuple[int, int]], first: int) -> tuple[int, str] | None:
    """(group after the end, kind) of the longest number that begins with a group."""
    for stop in range(min(len(groups), first + MOST_GROUPS), first, -1):
        chosen = groups[first:stop]
        if kind := _kind(text, chosen):
            return stop, kind
    return None


def _kind(text: str, groups: list[tuple[int, int]]) -> str:
    """What groups of digits are; "" where they are nothing of ours."""
    start, stop = groups[0][0], groups[-1][1]
    digits = "".join(text[a:b] for a, b in groups)
    before, after = text[max(0, start - 1) : start], text[stop : stop + 2]
    if _goes_on(before) or _goes_on(after[:1]):
        return ""
    marks = [text[a:b] for (_, a), (b, _) in itertools.pairwise(groups)]
    sizes = tuple(b - a for a, b in groups)
    context = text[max(0, start - BEFORE) : start]
    if _is_card(digits, sizes, marks, before):
        return "card"
    if _is_ipv4(text, groups, marks, before, after, context):
        return "ip"
    if _is_phone(text, start, stop, digits, sizes, marks, context):
        return "phone"
    return ""


def _goes_on(character: str) -> bool:
    """Whether a character beside a number makes it part of a word; letters of other scripts do not,
    which are written without spaces. "" is the end of the text."""
    return character.isascii() and (character.isalnum() or character in ("_", "@"))


def _is_card(digits: str, sizes: tuple[int, ...], marks: list[str], before: str) -> bool:
    if not 13 <= len(digits) <= 19 or not _ISSUERS.match(digits) or before in (".", ",", "+"):
        return False
    whole = len(sizes) == 1 or (sizes in _LAYOUTS and len({*marks}) == 1 and len(marks[0]) == 1)
    return whole and len({*digits}) > 1 and _luhn(digits)


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [2 * int(d) for d in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(d - 9 * (d > 9) for d in doubled)) % 10 == 0


def _is_ipv4(
    text: str,
    groups: list[tuple[int, int]],
    marks: list[str],
    before: str,
    after: str,
    context: str,
) -> bool:
    """Four numbers up to 255 that lead somewhere: not of this machine or a private network."""
    if marks != ["."] * 3 or before in (".", "-") or (after[:1] in ".-" and after[1:].isdigit()):
        return False
    parts = [text[a:b] for a, b in groups]
    if any(len(p) > 3 or int(p) > 255 or (len(p) > 1 and p[0] == "0") for p in parts):
        return False
    a, b = int(parts[0]), int(parts[1])
    private = a in (0, 10, 127, 255) or (a, b) in ((192, 168), (169, 254))
    return not (private or (a == 172 and 16 <= b < 32) or _announced(context) == "other")


def _announced(context: str) -> str:
    """What the nearest word of ours before a number says that it is: "phone", "other" or ""."""
    sentence = re.split(r"[;\n!?]|[.] (?=[A-ZÀ-Þ])", context)[-1]
    phone, other = _end_of(_PHONE_WORDS, sentence), _end_of(_OTHER_WORDS, sentence)
    if not phone and not other:
        return ""
    return "phone" if phone >= other else "other"


def _end_of(words: re.Pattern[str], sentence: str) -> int:
    """Where the last of the words ends; 0 where there is none."""
    return max((match.end() for match in words.finditer(sentence)), default=0)


def _is_phone(
    text: str,
    start: int,
    stop: int,
    digits: str,
    sizes: tuple[int, ...],
    marks: list[str],
    context: str,
) -> bool:
    """ITU-T E.164 in any layout; national numbers by their layout, or by a word before them."""
    if not 7 <= len(digits) <= 17 or any(mark in BREAKS for mark in marks):
        return False
    opening = text[_opening(text, start, "phone") : start]
    if "+" in opening:
        decimal = len(marks) == 1 and marks[0] == "."
        return 8 <= len(digits) <= 16 and bool(CALLING.match(digits)) and not decimal
    if _MONEY.match(text, stop) or _MONEY_BEFORE.search(context) or _DATE.match(text, start):
        return False
    if (
        len({*digits}) < 3
        or text[stop : stop + 1] in ("/", "=")
        or context.endswith(("/", "=", "-"))
    ):
        return False
    announced = _announced(context)
    if re.match(r"[.,]\d", text[stop : stop + 2]):  # a decimal number
        return False
    dotted = marks == ["."] * 3 and max(sizes) <= 3  # as an address or a version
    if announced == "other" or dotted or _is_isbn(digits, marks):
        return False
    if digits.startswith("00"):
        return (
            11 <= len(digits) <= 17 and bool(CALLING.match(digits, 2)) and not context.endswith("#")
        )
    if announced == "phone":
        return len(digits) <= 15
    if re.search(r"[#.,]$|\d:$", context):
        return False
    return _is_national(digits, sizes, marks, bool(opening))


def _is_national(digits: str, sizes: tuple[int, ...], marks: list[str], bracket: bool) -> bool:
    """Layouts that little else has. In turn: a trunk 0 (Germany, France, Britain, landlines in
    China); North America; China's mobiles; Spain."""
    if digits[0] == "0":
        grouped = len(sizes) > 1 and min(sizes) >= 2 and len(sizes) <= 6
        mobile = len(sizes) == 1 and re.match(r"01[567]\d|0[67]\d", digits)
        return 9 <= len(digits) <= 12 and bool(grouped or mobile)
    american = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
    if re.fullmatch(r"(?:[2-9]\d\d){2}\d{4}", american) and (
        sizes[-3:] == (3, 3, 4) or (bracket and sizes == (3, 7))
    ):
        return True
    if len(digits) == 11 and re.match(r"1[3-9]", digits) and sizes in ((11,), (3, 4, 4), (3, 8)):
        return True
    if len(digits) == 9 and digits[0] in "67" and sizes == (3, 3, 3):
        return True
    return len(digits) == 9 and digits[0] in "6789" and sizes in ((3, 2, 2, 2), (2, 3, 2, 2))


def _is_isbn(digits: str, marks: list[str]) -> bool:
    """ISBN-10 with three hyphens, or ISBN-13."""
    if len(digits) == 13 and digits[:3] in ("978", "979"):
        return True
    sum_ = sum((10 - place) * int(d) for place, d in enumerate(digits[:10]))
    return len(digits) == 10 and marks == ["-"] * 3 and sum_ % 11 == 0


def _opening(text: str, start: int, kind: str) -> int:
    """Where a number begins that has its first digit at `start`: a phone number at "+" or "("."""
    if kind != "phone":
        return start
    for opening in ("(+", "+(", "+", "("):
        if text.endswith(opening, 0, start) and not text.endswith("++", 0, start):
            return start - len(opening)
    return start
