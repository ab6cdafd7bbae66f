"""Personas: what a simulated user wants of replies, as data.

    load_personas()["concise_casual_beginner"].text
    find_persona("poetic")                   one of those that come with the package
    find_persona("mine.toml:grumpy")         one of your own file; its only one by "mine.toml"
    read_persona("No emojis, please.")       any of these, a text, or that of "@FILE"

A file is TOML with a table per persona: `[grumpy]` and below it `text = "This user ..."`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from pathlib import Path

from interact_jax.json_files import short
from interact_jax.places import check_name
from interact_jax.schema import InputError

SHIPPED = Path(__file__).parent / "personas" / "styles.toml"
LONGEST_TEXT = 8_000  # characters: all of it is in every prompt
LARGEST_FILE = 4 << 20  # bytes
NAME = re.compile(r"\w[\w.-]{0,79}", re.ASCII)
WORD = re.compile(r"[\w./~-]*[\w-]|.*\.toml(:\S*)?", re.ASCII)
"""What can only be meant as a name: one word, without a full stop."""
EXPECTED = 'expected a table per persona, such as [grumpy] with text = "This user ..." below it'


@dataclasses.dataclass(frozen=True)
class Persona:
    """`text` says, in the third person, what a user wants of replies. One that was given as a text
    has no name, and says it as it likes."""

    name: str
    text: str


def load_personas(path: Path | str = SHIPPED) -> dict[str, Persona]:
    """The personas of a file, by name, in its order.

    Raises InputError, with file and persona, for anything that is none.
    """
    check_name(f"personas {path}", path)
    path = Path(path).expanduser()
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path}: more than {LARGEST_FILE:,} bytes; {EXPECTED}.")
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"personas {path}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not TOML in UTF-8 ({error}); {EXPECTED}.") from None
    if not tables:
        raise InputError(f"{path}: no personas in it; {EXPECTED}.")
    return {name: _persona(path, name, table) for name, table in tables.items()}


def _persona(path: Path, name: str, table: object) -> Persona:
    if not NAME.fullmatch(name):
        raise InputError(
            f"{path}: {short(name)}: no name for a persona; expected up to 80 letters, digits, "
            "dots, dashes and underscores."
        )
    if not isinstance(table, dict):
        raise InputError(f"{path}: {name}={short(table)}; {EXPECTED}.")
    if unknown := sorted(set(table) - {"text"}):
        raise InputError(f"{path}: {name}.{unknown[0]}: no such key; {EXPECTED}.")
    text = table.get("text")
    if not isinstance(text, str) or not 0 < len(text.strip()) <= LONGEST_TEXT:
        raise InputError(
            f"{path}: {name}.text={short(text)}; expected text of 1 to {LONGEST_TEXT:,} characters."
        )
    return Persona(name, " ".join(text.split()))


def find_persona(spec: str) -> Persona:
    """The persona that a flag or setting names; see the module. Raises InputError."""
    path, name = SHIPPED, spec
    if spec.endswith(".toml") or ".toml:" in spec:
        given, dot, name = spec.partition(".toml:")
        path = Path(given + ".toml" if dot else spec)
        name = name if dot else ""
    personas = load_personas(path)
    if not name and len(personas) == 1:
        return next(iter(personas.values()))
    if name in personas:
        return personas[name]
    close = difflib.get_close_matches(name, personas, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    where = "" if path == SHIPPED else f" in {path}"
    raise InputError(
        f"persona {spec!r}: no such one{where}.{hint} There are {', '.join(personas)}; a file of "
        "your own is given as FILE.toml:NAME."
    )


def read_persona(given: str) -> Persona:
    """The persona that is meant by a name (one word, or FILE.toml:NAME), the text of a file (@FILE)
    or the text itself. Raises InputError for a name that does not exist, and a file without text.
    """
    given = given.strip()
    if given.startswith("@"):
        return Persona("", _read_text(given[1:]))
    if not WORD.fullmatch(given):
        return Persona("", given)
    try:
        return find_persona(given)
    except InputError as error:
        raise InputError(f"{error} What a reader wants, in words, has more than one.") from None


def _read_text(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"@{path}: cannot be read ({error}).") from None
    if not 0 < len(text) <= LONGEST_TEXT:
        raise InputError(
            f"@{path}: {len(text):,} characters; expected what the reader wants, in at most "
            f"{LONGEST_TEXT:,}."
        )
    return text
