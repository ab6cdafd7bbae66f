"""Which columns of a table hold what, where a row is a message: by their usual names, or by a file.

# columns.toml
session = "chat_id"
role = "speaker"
text = "body"
time = "created_at"

[roles]
customer = "user"
agent = "assistant"

--config.data.mapping=columns.toml
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax.data.messages import keys_of
from interact_jax.data.turns import NAMES, ROLE_OF
from interact_jax.json_files import short
from interact_jax.places import check_name
from interact_jax.schema import InputError

USUAL = {
    "session": "session, session_id, conversation, conversation_id, chat, chat_id, thread, "
    "thread_id",
    "role": "role, speaker, sender, from",
    "text": "text, content, message, body, value",
    "time": "time, timestamp, created_at, sent_at, datetime, date",
    "user": "user, user_id",
    "rating": "rating, stars, score",
}
"""What a column may hold, and the names, in upper or lower case, by which it is known."""
NEEDED = ("session", "role", "text")
ROLES = "roles"
LARGEST_FILE = 1 << 20  # bytes
EXPECTED = (
    f'lines such as text = "body" for any of {", ".join(USUAL)}, and a table [{ROLES}] with lines '
    'such as agent = "assistant"'
)


@dataclasses.dataclass(frozen=True)
class Columns:
    """`named` are the columns that `file` names, by what they hold; `roles` is what the values of
    the column of roles mean, in lower case."""

    named: Mapping[str, str] = dataclasses.field(default_factory=dict)
    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    file: str = ""

    def among(self, keys: Sequence[str]) -> dict[str, str]:
        """The column for everything that one of these keys holds, or that the file names."""
        by_name = {key.casefold(): key for key in reversed(keys)}
        usual = {
            field: next((by_name[name] for name in names.split(", ") if name in by_name), "")
            for field, names in USUAL.items()
        }
        taken = set(self.named.values())
        free = {field: key for field, key in usual.items() if key and key not in taken}
        return {**free, **self.named}

    def check(self, keys: Sequence[str], where: str) -> None:
        """Raise InputError where a table with these columns has not all that is needed."""
        for field, name in self.named.items():
            if name not in keys:
                near = difflib.get_close_matches(name, keys, 1)
                hint = f"Did you mean {near[0]!r}?" if near else "Name one of these."
                raise InputError(
                    f"{self.file}: {field} = {name!r}: {where} has no such column, but "
                    f"{keys_of(dict.fromkeys(keys))}. {hint}"
                )
        missing = [field for field in NEEDED if field not in self.among(keys)]
        if missing:
            raise InputError(
                f"{where}: no column for the {' or the '.join(missing)} of a message, found "
                f"{keys_of(dict.fromkeys(keys))}. Name it in a file, {EXPECTED}, and give that as "
                "--config.data.mapping=FILE."
            )

    def role_of(self, value: Any) -> str | None:
        """A role by a name that every format knows, None where it is not known."""
        name = str(value).strip().casefold()
        return self.roles.get(name, name if name in ROLE_OF else None)


def load_columns(path: str) -> Columns:
    """The columns that a mapping file names; "" stands for no file. Raises InputError."""
    if not path:
        return Columns()
    shown = f"data.mapping={path}"
    check_name(shown, path)
    file = Path(path).expanduser()
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise InputError(f"{shown}: more than {LARGEST_FILE:,} bytes. Expected {EXPECTED}.")
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{shown}: cannot be read ({error.strerror}); looked from {Path.cwd()}."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{shown}: not TOML in UTF-8 ({error}). Expected {EXPECTED}.") from None
    roles = table.pop(ROLES, {})
    if not table and not roles:
        raise InputError(f"{shown}: nothing in it. Expected {EXPECTED}.")
    return Columns(_named(shown, table), _roles(shown, roles), shown)


def _named(shown: str, table: Mapping[str, Any]) -> dict[str, str]:
    for field, name in table.items():
        if field not in USUAL:
            near = difflib.get_close_matches(field, [*USUAL, ROLES], 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{shown}: unknown key {field!r}.{hint} Expected {EXPECTED}.")
        if not isinstance(name, str) or not name:
            raise InputError(
                f"{shown}: {field} = {short(name)}: expected the name of a column, a text."
            )
    names = list(table.values())
    for field, name in table.items():
        if names.count(name) > 1:
            raise InputError(f"{shown}: {field} = {name!r}: another line names that column too.")
    return dict(table)


def _roles(shown: str, table: Any) -> dict[str, str]:
    if not isinstance(table, dict):
        raise InputError(f"{shown}: {ROLES} = {short(table)}: expected a table, [{ROLES}].")
    for name, role in table.items():
        if role not in list(NAMES):
            raise InputError(
                f"{shown}: [{ROLES}] {name} = {short(role)}: expected one of {', '.join(NAMES)}."
            )
    return {name.strip().casefold(): role for name, role in table.items()}
