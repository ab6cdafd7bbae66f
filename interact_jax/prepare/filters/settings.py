"""The settings of filters, and how they are written.

A filter is a frozen dataclass; its fields are its settings, made by `setting`. In text it is its
name, a colon, and settings with commas between them:

    language                                   all settings as they are by default
    length:least=10,most=4000
    language:languages=en,de,fr,least=0.8      a setting of several values has commas as well
    time:since=2023-04-01,missing=drop
    near_duplicates:threshold=0.8;shingle=3    a semicolon is the same as a comma
    length:most=none                           none: no such limit

What stands between two commas and has no "=" is one more value of the setting before it. No value
contains a comma, a semicolon or an equals sign.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from interact_jax.schema import InputError

NONE = "none"
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
KEEP_OR_DROP = ("keep", "drop")


def setting(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a filter: its default and meaning; of numbers the bounds, of texts the choices."""
    metadata = {"help": help, "choices": choices, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The base of all filters: settings are checked when a filter is made. Raises InputError."""

    name: typing.ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(self.name, field, _type_of(type(self), field), getattr(self, field.name))

    def refuse(self, setting: str, expected: str) -> InputError:
        """What to raise for a value that no field alone can tell to be wrong."""
        return _wrong(self.name, setting, written(getattr(self, setting)), expected)


def parse(text: str, known: Mapping[str, type[Any]]) -> Any:
    """The filter that `text` names among `known`, with its settings. Raises InputError."""
    name, colon, rest = text.partition(":")
    name = name.strip()
    if name not in known:
        raise InputError(
            f"filter {name!r}: there is no such filter.{_hint(name, known)} "
            f"Available: {', '.join(known)}."
        )
    if colon and not rest.strip():
        raise InputError(f"filter {text!r}: settings are expected after the colon, as NAME=VALUE.")
    chosen = known[name]
    fields = {field.name: field for field in dataclasses.fields(chosen)}
    given: dict[str, list[str]] = {}
    for part in re.split("[,;]", rest) if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            if not given:
                raise InputError(f"filter {text!r}: {key!r} belongs to no setting, see NAME=VALUE.")
            given[next(reversed(given))].append(key)
        elif key not in fields:
            listed = f"It has {', '.join(fields)}." if fields else "It has none."
            raise InputError(
                f"filter {name}: there is no setting {key!r}.{_hint(key, fields)} {listed}"
            )
        elif key in given:
            raise InputError(f"filter {name}: {key} is given twice.")
        else:
            given[key] = [value]
    values = {
        key: _value(name, fields[key], _type_of(chosen, fields[key]), texts)
        for key, texts in given.items()
    }
    return chosen(**values)


def to_text(filter: Any) -> str:
    """The text that `parse` makes an equal filter of; settings that have their default left out."""
    given = [
        f"{field.name}={written(getattr(filter, field.name))}"
        for field in dataclasses.fields(filter)
        if getattr(filter, field.name) != field.default
    ]
    return f"{filter.name}:{','.join(given)}" if given else filter.name


def written(value: Any) -> str:
    """A setting's value as it is given."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def describe(filter: type[Any]) -> list[str]:
    """For `--help`, a line for each setting of a filter's class: name, default, meaning."""
    return [
        f"{field.name}={written(field.default)}: {field.metadata['help']}"
        + (f" ({', '.join(field.metadata['choices'])})" if field.metadata["choices"] else "")
        for field in dataclasses.fields(filter)
    ]


# --------------------------------------------------------------------- one value


def _type_of(filter: type[Any], field: dataclasses.Field[Any]) -> tuple[Any, bool]:
    """(bool, int, float, str or tuple, whether None is allowed) of a setting."""
    hint = typing.get_type_hints(filter)[field.name]
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if typing.get_origin(hint) is tuple:
        return tuple, False
    optional = type(None) in typing.get_args(hint)
    return (kinds[0] if optional else hint), optional


def _value(
    name: str, field: dataclasses.Field[Any], kind: tuple[Any, bool], texts: list[str]
) -> Any:
    """The value of a setting from its text. Raises InputError."""
    type_, optional = kind
    if type_ is tuple:
        return tuple(text for text in texts if text)
    text = ",".join(texts)
    if optional and text.lower() == NONE:
        return None
    if type_ is bool:
        if text.lower() not in BOOLEANS:
            raise _wrong(name, field.name, text, _expected(field, kind))
        return BOOLEANS[text.lower()]
    try:
        return type_(text)
    except ValueError:
        raise _wrong(name, field.name, text, _expected(field, kind)) from None


def _check(name: str, field: dataclasses.Field[Any], kind: tuple[Any, bool], value: Any) -> None:
    """Raise InputError for a value that a setting cannot have."""
    type_, optional = kind
    meta = field.metadata
    if value is None and optional:
        return
    if not _is(value, type_):
        raise _wrong(name, field.name, written(value), _expected(field, kind))
    if type_ is tuple and not value:
        raise _wrong(name, field.name, "", "one value or more")
    for text in (value if type_ is tuple else (value,)) if meta["choices"] else ():
        if text not in meta["choices"]:
            expected = f"one of {', '.join(meta['choices'])}"
            raise _wrong(name, field.name, text, expected, _hint(text, meta["choices"]))
    if type_ in (int, float):
        low = -math.inf if meta["least"] is None else meta["least"]
        high = math.inf if meta["most"] is None else meta["most"]
        if not low <= value <= high:
            raise _wrong(name, field.name, value, _expected(field, kind))


def _is(value: Any, type_: Any) -> bool:
    if type_ is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if type_ is tuple:
        return isinstance(value, tuple) and all(isinstance(text, str) for text in value)
    return type(value) is type_


_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _expected(field: dataclasses.Field[Any], kind: tuple[Any, bool]) -> str:
    """What a setting takes, in words: "a whole number of at least 1, or none"."""
    type_, optional = kind
    least, most = field.metadata["least"], field.metadata["most"]
    noun = _NOUNS.get(type_, "texts")
    if least is not None and most is not None:
        noun = f"{noun} from {least} to {most}"
    elif least is not None:
        noun = f"{noun} of at least {least}"
    return f"{noun}, or {NONE}" if optional else noun


def _wrong(name: str, setting: str, given: Any, expected: str, hint: str = "") -> InputError:
    return InputError(f"filter {name}: {setting}={given}: expected {expected}.{hint}")


def _hint(given: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, list(known), 1)
    return f" Did you mean {near[0]!r}?" if near else ""
