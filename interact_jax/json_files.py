"""JSON files from untrusted sources: read strictly, and checked key by key.

    raw = read_json(directory / "config.json")
    check(raw, {"hidden_size": whole(1, 1 << 17), "tie_word_embeddings": FLAG}, "config.json")

Every problem is an InputError that names the file and, where there is one, the key.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interact_jax.schema import InputError

LARGEST = 128 << 20  # bytes; the largest tokenizer.json of a well-known model is 33 MB


# --------------------------------------------------------------------------------------- reading


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file: UTF-8, no duplicate keys, only finite numbers.

    Raises InputError with file, and line and column or key.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(f"{path}: has {size:,} bytes; up to {LARGEST:,} are read.")
        text = path.read_text(encoding="utf-8")
        odd: list[float] = []
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=lambda digits: _collect_odd(float(digits), odd),
            parse_constant=lambda name: _collect_odd(float(name), odd),
        )
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}:{error.colno}: broken JSON: {error.msg}."
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}).") from None
    except RecursionError:
        raise InputError(f"{path}: lists or objects nested too deeply.") from None
    except _DuplicateKey as duplicate:
        raise InputError(
            f"{path}: key {short(duplicate.key)} occurs twice in one object."
        ) from None
    except ValueError as error:  # a number with thousands of digits
        raise InputError(f"{path}: broken JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    if (odd or "\\ud" in text.lower()) and (place := _find_unusable(value)) is not None:
        raise InputError(
            f"{path}: {short('.'.join(place))}: expected finite numbers, and text without lone "
            "surrogates, the halves of characters."
        )
    return value


def _collect_odd(value: float, odd: list[float]) -> float:
    if not math.isfinite(value):
        odd.append(value)
    return value


class _DuplicateKey(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        raise _DuplicateKey(counts.most_common(1)[0][0])
    return result


def _find_unusable(value: Any) -> list[str] | None:
    """The path of keys to a NaN or infinite number, or to text that UTF-8 cannot encode. The
    recursion is safe: JSON that could be read is at most some hundred levels deep."""
    if isinstance(value, float):
        return None if math.isfinite(value) else []
    if isinstance(value, str):
        return None if value.isascii() or _is_encodable(value) else []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        if isinstance(key, str) and _find_unusable(key) is not None:
            return [ascii(key)]
        if (place := _find_unusable(inner)) is not None:
            return [str(key), *place]
    return None


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# -------------------------------------------------------------------------------------- checking


@dataclasses.dataclass(frozen=True)
class Kind:
    """A test for allowed values, and the description of them that follows "expected"."""

    description: str
    fits: Callable[[Any], bool]

    def or_null(self) -> Kind:
        return Kind(f"{self.description}, or null", lambda value: value is None or self.fits(value))


def whole(least: int, most: int) -> Kind:
    """A whole number; true, false and 4.0 are not."""
    start = "a positive whole number" if least == 1 else f"a whole number from {least}"
    return Kind(
        f"{start} up to {most:,}",
        lambda value: type(value) is int and least <= value <= most,
    )


def number(above: float = -math.inf, *, least: float = -math.inf, most: float = math.inf) -> Kind:
    """A finite number, whole or fractional."""
    bounds = [f"above {above:g}"] * (above > -math.inf) + [f"from {least:g}"] * (least > -math.inf)
    bounds += [f"up to {most:g}"] * (most < math.inf)

    def fits(value: Any) -> bool:
        if type(value) not in (int, float) or not -1e300 < value < 1e300:
            return False
        return above < value and least <= value <= most

    return Kind(" ".join(["a number", *bounds]), fits)


def one_of(*choices: str) -> Kind:
    return Kind(f"one of {', '.join(choices)}", lambda value: value in choices)


def list_of(kind: Kind) -> Kind:
    """A list whose values are all of a kind."""
    return Kind(
        f"a list of {kind.description}",
        lambda value: isinstance(value, list) and all(map(kind.fits, value)),
    )


def either(*kinds: Kind) -> Kind:
    return Kind(
        " or ".join(kind.description for kind in kinds),
        lambda value: any(kind.fits(value) for kind in kinds),
    )


LONGEST_NAME = 255  # bytes that file systems take
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("text", lambda value: isinstance(value, str))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
FILE_NAME = Kind(
    f"the name of a file beside it, without a path and of at most {LONGEST_NAME} bytes",
    lambda value: (
        isinstance(value, str)
        and value not in ("", ".", "..")
        and not set(value) & {"/", "\\", "\0"}
        and len(value.encode("utf-8", "surrogatepass")) <= LONGEST_NAME
    ),
)


def check(values: Mapping[str, Any], kinds: Mapping[str, Kind], source: str | Path) -> None:
    """Raise InputError for the first key whose value is not of its kind; keys may be missing."""
    for key, kind in kinds.items():
        if key in values and not kind.fits(values[key]):
            raise InputError(f"{source}: {key}={short(values[key])}; expected {kind.description}.")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlong = 40


def short(value: Any) -> str:
    """A value for a message, shortened."""
    return _SHORT.repr(value)
