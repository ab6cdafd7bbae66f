"""Phone numbers, card numbers, IBANs and IPv4 addresses: what consists of groups of digits."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator

# A run of groups: digits, and up to three marks between them.
_RUN = re.compile(r"\d(?:[ .\-/()\u00a0\u2009\u202f\u2010-\u2013]{0,3}\d){3,39}", re.ASCII)
_DIGIT = re.compile(r"[0-9]")
_GROUP = re.compile(r"\d+", re.ASCII)
LEAST_DIGITS, MOST_DIGITS, MOST_GROUPS = 7, 19, 12  # of a number
LEAST_DENSITY = 1.5  # digits of a group, on average
BEFORE = 28  # characters in front of a number that say what it is

_PHONE_WORDS = re.compile(
    r"(?:phone|fon\b|(?:ruf|fon|handy|mobil)nummer|\btel\b|\btlf\b|\bt[eé]l[eé]|\bmobil|\bmóvil|\bm[oó]vil|\bcell\b|\bcall\b|\bfax\b|\bhandy"
    r"|\bwhats ?app|\bportable|\bappel|\bllam|\brufnummer|\banrufen|\bsms\b|\btext me"
    r"|电话|手机|致电|拨打|联系方式|微信|電話)",
    re.IGNORECASE,
)
_OTHER_WORDS = re.compile(
    r"(?:\border|\w{3}nummer|\binvoice|\bticket|\bisbn|\bissn|\btracking|\br[eé]f|\bserial|\bid\b|\bno\."
    r"|\bnr\.|\bversion|\bversión|\bbestell|\brechnung|\bauftrag|\bcommande|\bfacture|\bpedido"
    r"|\bfactura|\bnúmero de|\bnuméro de|\bprice|\bpreis|\bprix|\bprecio|\bpopulation|\bart\."
    r"|\bstep|\bseed|\bpid\b|\bcommit|\brelease|\bbuild|\bfirmware|\bsection|\bkapitel|\bchap|\bcapítulo"
    r"|订单|发票|编号|单号|版本|价格|快递)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[;\n!?]|[.] (?=[A-ZÀ-Þ])")
_MOBILE = re.compile(r"01[567]\d+$|0[67]\d+$")  # those that are written in one piece
_AMERICAN = re.compile(r"1?(?:[2-9]\d\d){2}\d{4}")
_CLOCK = re.compile(r"\d:$")
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
_BREAK = re.compile(r"\.[ (]|\) ?[(.]|/ | /|  ")  # marks that part two numbers
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
    for found in _RUN.finditer(text) if _DIGIT.search(text) else ():
        run = _Run(text, *found.span())
        first = len(run.groups) if run.is_like_iban() else 0
        while first < len(run.groups):
            taken = run.longest(first)
            if taken is None:
                first += 1
                continue
            number, kind = taken
            yield number.opening if kind == "phone" else number.start, number.stop, kind
            first += len(number.sizes)


class _Run:
    """Groups of digits, from a number or several in a row, and what was said before them."""

    def __init__(self, text: str, start: int, stop: int):
        self.text, self.start = text, start
        self.groups = [match.span() for match in _GROUP.finditer(text, start, stop)]
        self.sizes = [b - a for a, b in self.groups]

    def is_like_iban(self) -> bool:
        """Whether two letters, two digits and groups of four say that this was meant to be an
        account, though its check digits are wrong."""
        letters = self.text[max(0, self.start - 2) : self.start]
        fours = len(self.sizes) > 3 and {*self.sizes[1:-1]} == {4}
        return letters.isalpha() and self.sizes[0] == 2 and fours

    def longest(self, first: int) -> tuple[_Number, str] | None:
        """The longest number that begins with a group, and its kind."""
        digits, stops = 0, list[int]()
        dotted = self.text[self.groups[first][1] : self.groups[first][1] + 1] == "."
        for stop in range(first + 1, min(len(self.groups), first + MOST_GROUPS) + 1):
            digits += self.sizes[stop - 1]
            if digits > MOST_DIGITS:
                break
            dense = digits >= LEAST_DENSITY * (stop - first)
            if (digits >= LEAST_DIGITS and dense) or (dotted and stop == first + 4):
                stops.append(stop)
        for stop in reversed(stops):
            number = _Number(self, first, stop)
            if kind := number.kind():
                return number, kind
        return None

    @functools.cached_property
    def announced(self) -> str:
        """What the nearest word of ours before the run says that it is: "phone", "other" or ""."""
        before = self.text[max(0, self.start - BEFORE) : self.start]
        sentence = _SENTENCE_END.split(before)[-1]
        phone, other = _end_of(_PHONE_WORDS, sentence), _end_of(_OTHER_WORDS, sentence)
        if not phone and not other:
            return ""
        return "phone" if phone >= other else "other"


def _end_of(words: re.Pattern[str], sentence: str) -> int:
    """Where the last of the words ends; 0 where there is none."""
    return max((match.end() for match in words.finditer(sentence)), default=0)


def _goes_on(character: str) -> bool:
    """Whether a character beside a number makes it part of a word; letters of other scripts do not,
    which are written without spaces. "" is the end of the text."""
    return character.isascii() and (character.isalnum() or character in ("_", "@"))


class _Number:
    """Some groups of a run, which may be a number of ours."""

    def __init__(self, run: _Run, first: int, stop: int):
        self.run, self.text = run, run.text
        groups = run.groups[first:stop]
        self.start, self.stop = groups[0][0], groups[-1][1]
        self.parts = [self.text[a:b] for a, b in groups]
        self.sizes = tuple(run.sizes[first:stop])
        self.marks = [self.text[a:b] for (_, a), (b, _) in itertools.pairwise(groups)]
        self.digits = "".join(self.parts)
        self.before = self.text[self.start - 1 : self.start] if self.start else ""
        self.after = self.text[self.stop : self.stop + 2]

    def kind(self) -> str:
        """What it is; "" where it is nothing of ours."""
        if _goes_on(self.before) or _goes_on(self.after[:1]):
            return ""
        if self.is_card():
            return "card"
        if self.is_ipv4():
            return "ip"
        return "phone" if self.is_phone() else ""

    def is_card(self) -> bool:
        if not 13 <= len(self.digits) <= 19 or self.before in (".", ",", "+"):
            return False
        mark = self.marks[0] if self.marks else ""
        grouped = self.sizes in _LAYOUTS and {*self.marks} == {mark} and len(mark) == 1
        if not (len(self.sizes) == 1 or grouped) or not _ISSUERS.match(self.digits):
            return False
        return len({*self.digits}) > 1 and _luhn(self.digits)

    def is_ipv4(self) -> bool:
        """Four numbers up to 255 that lead somewhere: not of this machine or a private network."""
        if self.marks != ["."] * 3 or max(self.sizes) > 3 or self.before in (".", "-"):
            return False
        if any(int(p) > 255 or (len(p) > 1 and p[0] == "0") for p in self.parts):
            return False
        if self.after[:1] in (".", "-") and self.after[1:].isdigit():
            return False
        a, b = int(self.parts[0]), int(self.parts[1])
        private = a in (0, 10, 127, 255) or (a, b) in ((192, 168), (169, 254))
        return not (private or (a == 172 and 16 <= b < 32) or self.run.announced == "other")

    @functools.cached_property
    def opening(self) -> int:
        """Where a phone number begins: at "+", or at "(" where it ends before the number does."""
        brackets = [c for mark in self.marks for c in mark if c in "()"]
        closed = brackets[:1] == [")"]
        for opening in ("(+", "+(", "+", "("):
            bracket = "(" in opening
            if closed >= bracket and self.text.endswith(opening, 0, self.start):
                return self.start - len(opening)
        return self.start

    def is_phone(self) -> bool:
        """ITU-T E.164 in any layout; national numbers by their layout, or by a word before them."""
        size = len(self.digits)
        if size < LEAST_DIGITS or size > 17 or any(map(_BREAK.search, self.marks)):
            return False
        if "+" in self.text[self.opening : self.start]:
            decimal = self.marks == ["."]
            return 8 <= size <= 16 and bool(CALLING.match(self.digits)) and not decimal
        if self.before in ("#", ".", ",") or _CLOCK.search(self.text, self.start - 2, self.start):
            is_one = False
        elif self.parts[0].startswith("00"):
            is_one = size >= 11 and bool(CALLING.match(self.digits, 2))
        else:
            is_one = self.is_national()
        if not is_one and (size > 15 or self.run.announced != "phone"):
            return False
        return not self.is_something_else()

    def is_national(self) -> bool:
        """Layouts that little else has. In turn: a trunk 0 (Germany, France, Britain, Japan,
        landlines in China); North America; mobiles in China, India, Russia, Spain."""
        digits, sizes = self.digits, self.sizes
        if " (" in self.marks[sizes[0] == 1 :]:  # a year behind something else
            return False
        if digits[0] == "0":
            grouped = 1 < len(sizes) <= 6 and min(sizes) >= 2
            mobile = len(sizes) == 1 and _MOBILE.match(digits)
            return 9 <= len(digits) <= 12 and bool(grouped or mobile)
        if len(digits) in (10, 11) and _AMERICAN.fullmatch(digits):
            bracket = self.opening < self.start
            if sizes[-3:] == (3, 3, 4) or (bracket and sizes == (3, 7)):
                return True
        if len(digits) == 11 and digits[0] == "1" and digits[1] in "3456789":
            return sizes in ((11,), (3, 4, 4), (3, 8)) and "." not in self.marks
        if len(digits) in (10, 11) and digits[-10] in "6789":
            russian = sizes[-4:] == (3, 3, 2, 2) and self.marks[-1] == "-"
            return sizes == (5, 5) or russian
        spanish = sizes in ((3, 2, 2, 2), (2, 3, 2, 2)) or (
            sizes == (3, 3, 3) and digits[0] in "67"
        )
        return len(digits) == 9 and digits[0] in "6789" and spanish

    def is_something_else(self) -> bool:
        """A price, a date, a decimal number, a path, a book, or what was called something else."""
        text, start, stop = self.text, self.start, self.stop
        dotted = self.marks == ["."] * 3 and max(self.sizes) <= 3  # as an address or a version
        if dotted or self.before in ("/", "=", "-") or self.after[:1] in ("/", "="):
            return True
        if (self.after[:1] in (".", ",") and self.after[1:].isdigit()) or len({*self.digits}) < 3:
            return True
        money = _MONEY.match(text, stop) or _MONEY_BEFORE.search(text, max(0, start - 4), start)
        if money or _DATE.match(text, start) or _is_isbn(self.digits, self.marks):
            return True
        return self.run.announced == "other"


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [2 * int(d) for d in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(d - 9 * (d > 9) for d in doubled)) % 10 == 0


def _is_isbn(digits: str, marks: list[str]) -> bool:
    """ISBN-10 with three hyphens, or ISBN-13."""
    if len(digits) == 13 and digits[:3] in ("978", "979"):
        return True
    sum_ = sum((10 - place) * int(d) for place, d in enumerate(digits[:10]))
    return len(digits) == 10 and marks == ["-"] * 3 and sum_ % 11 == 0
