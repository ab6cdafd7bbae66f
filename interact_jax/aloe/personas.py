"""Personas: everybody who a pool of profiles and a pool of personalities make.

    profiles = read_pool("profile.jsonl")            ALOE's own file, or ours
    persona = Personas.product(profiles, shipped("personalities"), seed=0)(17)

A profile says who somebody is, a personality what they are like. Any profile goes with any
personality; the order in which they are taken is by seed, and nobody comes twice before all have
come once.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from interact_jax import places
from interact_jax.aloe.cast import Persona
from interact_jax.generation.engine import seed_of
from interact_jax.json_files import short
from interact_jax.judges.store import digest
from interact_jax.printable import count
from interact_jax.schema import InputError

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "pools"
LARGEST = 64 << 20  # bytes of a file
LONGEST = 8_000  # characters of a text: all of it is in every prompt
TEXT_LINE = 'expected a JSON string, such as "She runs a bakery.", or {"text": "..."}'
PERSONA_LINE = 'expected {"profile": "...", "personality": "..."}'
BOTH = ("profile", "personality")


def shipped(name: str) -> list[str]:
    """A pool that comes with the package: "profiles" and "personalities" to grow others from,
    "benchmark_profiles" and "benchmark_personalities" to measure with. No text is in two pools."""
    return read_pool(FOLDER / f"{name}.txt")


def benchmark_personas() -> list[Persona]:
    """The hundred cases of our benchmark: every profile with every personality."""
    personalities = shipped("benchmark_personalities")
    return [Persona(who, how) for who in shipped("benchmark_profiles") for how in personalities]


# ------------------------------------------------------------------------------------- reading


def read_pool(path: str | Path) -> list[str]:
    """The texts of a file, each once.

    A line of a .txt file is a text. In every other file it is one JSON string or several, as in
    ALOE's own data, or an object with "text". Raises InputError with file and line.
    """
    texts, plain = list[str](), Path(path).suffix == ".txt"
    for number, line in _lines(path):
        texts += [line.strip()] if plain else _strings(line, f"{path}:{number}")
        _check(texts[-1:], f"{path}:{number}")
    return _each_once(texts, path)


def read_personas(path: str | Path) -> list[Persona]:
    """Profiles with their personalities, from JSON Lines. Raises InputError with file and line."""
    personas = []
    for number, line in _lines(path):
        where = f"{path}:{number}"
        (value,) = _values(line, where, PERSONA_LINE, most=1)
        found = [value.get(name) for name in BOTH] if isinstance(value, dict) else []
        texts = [text.strip() for text in found if isinstance(text, str)]
        if len(texts) < len(BOTH):
            raise InputError(f"{where}: {short(line)}: {PERSONA_LINE}.")
        _check(texts, where)
        profile, personality = texts
        personas.append(Persona(profile, personality))
    if not personas:
        raise InputError(f"{path}: empty; {PERSONA_LINE} in every line.")
    return personas


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that are not blank."""
    try:
        with places.reading(path, LARGEST) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    if len(content) > LARGEST:
        raise InputError(f"{path}: more than {LARGEST:,} bytes; expected a pool of texts.")
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: not UTF-8 text ({error}). Convert it.") from None
        if text.strip():
            yield number, text


def _strings(line: str, where: str) -> list[str]:
    texts = []
    for value in _values(line, where, TEXT_LINE):
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise InputError(f"{where}: {short(value)}: {TEXT_LINE}.")
        _check([text], where)
        texts.append(text.strip())
    return texts


def _values(line: str, where: str, expected: str, most: int | None = None) -> list[object]:
    """The JSON values of a line, with nothing but space or a comma between them."""
    values, decoder = list[object](), json.JSONDecoder()
    at = _after_space(line, 0)
    while at < len(line) and len(values) != most:
        try:
            value, at = decoder.raw_decode(line, at)
        except (ValueError, RecursionError) as error:
            column = getattr(error, "pos", at) + 1
            raise InputError(f"{where}:{column}: broken JSON; {expected}.") from None
        values.append(value)
        at = _after_space(line, at)
        if line[at : at + 1] == ",":
            at = _after_space(line, at + 1)
    if at < len(line):
        raise InputError(f"{where}: more than one value in the line; {expected}.")
    return values


def _after_space(line: str, at: int) -> int:
    """Where the next other character is."""
    found = re.compile(r"\S").search(line, at)
    return found.start() if found else len(line)


def _check(texts: Sequence[str], where: str) -> None:
    for text in texts:
        if not 0 < len(text.strip()) <= LONGEST:
            raise InputError(
                f"{where}: a text of {len(text.strip()):,} characters; expected 1 to {LONGEST:,}."
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{where}: half of a character (a lone surrogate). Write it whole.")


def _each_once(texts: Sequence[str], path: str | Path) -> list[str]:
    each = list(dict.fromkeys(texts))
    if not each:
        raise InputError(f"{path}: empty; {TEXT_LINE} in every line.")
    if copies := len(texts) - len(each):
        log.warning("%s: %s left out, as copies of others", path, count(copies, "text"))
    return each


# -------------------------------------------------------------------------------------- taking


class Personas:
    """Personas by number 0, 1, ..., in an order by seed, which begins anew, otherwise, where all
    have come. `about` is JSON that says which ones they are, and in which order."""

    def __init__(self, size: int, at: Callable[[int], Persona], identity: str, seed: int):
        self._size, self._at, self._seed = size, at, seed
        self.about = [identity, seed]
        self._lap, self._order = -1, list[int]()

    @classmethod
    def product(cls, profiles: Sequence[str], personalities: Sequence[str], seed: int) -> Personas:
        """Every profile with every personality."""

        def at(place: int) -> Persona:
            who, how = divmod(place, len(personalities))
            return Persona(profiles[who], personalities[how])

        identity = digest([list(profiles), list(personalities)])
        return cls(len(profiles) * len(personalities), at, identity, seed)

    @classmethod
    def listed(cls, personas: Sequence[Persona], seed: int) -> Personas:
        identity = digest([[p.profile, p.personality] for p in personas])
        return cls(len(personas), personas.__getitem__, identity, seed)

    def __len__(self) -> int:
        """How many there are before one comes again."""
        return self._size

    def __call__(self, number: int) -> Persona:
        lap, place = divmod(number, self._size)
        if lap != self._lap:
            self._lap, self._order = lap, _order(self._size, self._seed, lap)
        return self._at(self._order[place])


def _order(number: int, seed: int, lap: int) -> list[int]:
    """The numbers below `number`, shuffled: the same on every machine and in every version."""
    return sorted(range(number), key=lambda n: (seed_of(seed, "personas", lap, n), n))
