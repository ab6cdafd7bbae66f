"""What chat templates may use, and what is counted before it is done.

A check is called with the sandbox, the value and the arguments before the method, filter or test
is. It spends what that will cost, refuses what would be too large, and may return arguments to take
in place of the given ones: where parts come one after the other, a list of them, which has a size.
"""

from __future__ import annotations

import collections.abc
import datetime
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import runtime, sandbox, utils

from interact_jax.data.sandbox.bounds import CALL, NEEDLE, WIDTH, Declined, TooMuch

Check = Callable[..., Any]
CONTAINERS = (list, tuple, set, frozenset, collections.abc.MappingView)
CALLABLE = (
    runtime.Macro,
    runtime.LoopContext,
    runtime.BlockReference,
    runtime.Undefined,  # which says what is undefined
    utils.Joiner,
)
"""Types of what may be called."""
OWNERS = (runtime.LoopContext, utils.Cycler)
"""Types whose methods may be called, besides those in METHODS."""


# --------------------------------------------------------------------------------------- functions


class Namespace(utils.Namespace):
    """Jinja's, whose text does not go through all that it holds."""

    def __repr__(self) -> str:
        return "<Namespace>"


def raise_exception(message: Any) -> None:
    raise Declined(str(message)[:1000])


def strftime_now(form: str) -> str:
    if len(form) > 100:
        raise TooMuch("it has a format of the date of more than 100 characters")
    return datetime.datetime.now().strftime(form)


FUNCTIONS: dict[str, Any] = {
    "range": sandbox.safe_range,  # 100,000 at most
    "dict": dict,
    "namespace": Namespace,
    "cycler": utils.Cycler,
    "joiner": utils.Joiner,
    "raise_exception": raise_exception,
    "strftime_now": strftime_now,
}
"""Jinja's own, less the one that makes random text, and those that transformers adds."""


def trim(env: Any, value: Any, chars: str | None = None) -> str:
    """As Jinja has it; in its own words because templates trim every message."""
    text = value if isinstance(value, str) else env.shown(value)
    _search_backwards(env, text, () if chars is None else (chars,), {})
    return text.strip(chars)


def tojson(
    env: Any,
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: Unicode as it is, no escapes for HTML."""
    env.spend(CALL)
    env.weigh(value)
    padding = indent if isinstance(indent, int) else len(indent or "")
    if padding > 16 or sum(map(len, separators or ())) > 32:
        raise TooMuch("it has JSON with long indents or separators")
    made = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    return env.sized(made)


# ----------------------------------------------------------------------------------------- methods


def _longest(args: tuple, kwargs: Mapping[str, Any]) -> int:
    """Characters of the longest text among the arguments."""
    if not args and not kwargs:
        return 1
    return max((len(a) for a in (*args, *kwargs.values()) if isinstance(a, str)), default=1)


def _plain(env: Any, text: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
    env.weigh(args)
    env.spend(len(text) >> 3)


def _search(env: Any, text: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
    env.weigh(args)
    env.spend(len(text) * min(_longest(args, kwargs), NEEDLE) >> 6)


def _search_backwards(env: Any, text: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """The argument is compared at every place, or, by `strip`, searched for every character."""
    env.spend(len(text) * _longest(args, kwargs) >> 6)


def _pad(env: Any, text: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
    if any(isinstance(a, int) and a > WIDTH for a in (*args, *kwargs.values())):
        raise TooMuch(f"it pads a text to more than {WIDTH:,} characters")
    env.spend(len(text) >> 3)


def _expand_tabs(env: Any, text: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
    width = max((a for a in (*args, *kwargs.values()) if isinstance(a, int)), default=8)
    env.check_size(len(text) + text.count("\t") * width)


def _replace(env: Any, text: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
    _search(env, text, args, kwargs)
    old, new = (str(arg) for arg in (*args, *kwargs.values(), "", "")[:2])
    if (len(text) + 1) * len(new) > env.longest:
        env.check_size(len(text) + (text.count(old) + 1) * len(new))


def _join(env: Any, text: str, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
    parts = [list(arg) for arg in args]
    env.check_size(sum(env.weigh(some) + len(text) * len(some) for some in parts))
    return tuple(parts)


def _arguments(env: Any, owner: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
    env.weigh(args)


def _everything(env: Any, owner: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
    env.weigh(args)
    env.weigh(owner)


def _table(*rows: tuple[str, Check]) -> dict[str, Check]:
    return {name: check for names, check in rows for name in names.split()}


METHODS: tuple[tuple[type, dict[str, Check]], ...] = (
    (
        str,
        _table(
            ("capitalize casefold lower swapcase title upper removeprefix removesuffix", _plain),
            ("isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric", _plain),
            ("isprintable isspace istitle isupper splitlines startswith endswith", _plain),
            ("count find index partition split", _search),
            ("lstrip rfind rindex rpartition rsplit rstrip strip", _search_backwards),
            ("center ljust rjust zfill", _pad),
            ("expandtabs", _expand_tabs),
            ("replace", _replace),
            ("join", _join),
        ),
    ),
    (dict, _table(("copy get items keys values", _arguments))),
    (list, _table(("copy count index", _everything))),
    (tuple, _table(("count index", _everything))),
    (int | float, _table(("bit_length is_integer", _arguments))),
)
"""Methods that may be called, by the type they are of; `format` has its own way (`Format`)."""


def method(owner: Any, name: str) -> Check | None:
    """The check of a method that may be called, None where it may not."""
    return next((checks.get(name) for kind, checks in METHODS if isinstance(owner, kind)), None)


# ----------------------------------------------------------------------------------------- filters


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, collections.abc.Iterator) else value


def _deep(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """It goes through all of its value."""
    env.weigh(args)
    env.weigh(value)


def _slow(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """It looks at every character by itself."""
    env.spend(env.weigh(value))


def _shallow(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
    """It does something with each part of its value, but does not go through theirs."""
    value = _listed(value)
    env.spend(10 * len(value) if hasattr(type(value), "__len__") else 1)
    return (value, *args)


def _compared(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
    """It compares all parts."""
    value = _listed(value)
    _deep(env, value, args, kwargs)
    return _shallow(env, value, args, kwargs)


def _in_portions(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
    if any(isinstance(a, int) and a > WIDTH for a in (*args, *kwargs.values())):
        raise TooMuch(f"it makes portions of, or divides into, more than {WIDTH:,}")
    return _shallow(env, value, args, kwargs)


def _as_text(check: Check) -> Check:
    """The check of the method that does the same."""

    def checked(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
        check(env, env.shown(value), args, kwargs)

    return checked


def _joined(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
    parts = list(value)
    between = env.shown(args[0] if args else kwargs.get("d", ""))
    env.check_size(env.weigh(parts) + len(between) * len(parts))
    return (parts, *args)


def _indent(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
    width = args[0] if args else kwargs.get("width", 4)
    width = width if isinstance(width, int) else len(env.shown(width))
    text = env.shown(value)
    env.check_size(len(text) + (text.count("\n") + 1) * width)


def _round(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
    if any(isinstance(a, int) and abs(a) > 300 for a in (*args, *kwargs.values())):
        raise TooMuch("it rounds to more than 300 digits")


def _sum(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
    start = args[1] if len(args) > 1 else kwargs.get("start", 0)
    if not isinstance(start, int | float):
        raise TypeError(f"sum starts with a number, not a {type(start).__name__}")
    return _compared(env, value, args, kwargs)


def _printf(env: Any, value: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
    env.check_printf(env.shown(value), kwargs or args)


FREE = ("attr", "count", "d", "default", "first", "last", "length")
FILTERS = _table(
    ("items list map reject rejectattr reverse select selectattr", _shallow),
    ("abs capitalize dictsort e escape filesizeformat float forceescape int lower", _deep),
    ("safe string truncate upper", _deep),
    ("title urlencode wordcount", _slow),
    ("groupby max min sort unique", _compared),
    ("batch slice", _in_portions),
    ("center", _as_text(_pad)),
    ("replace", _as_text(_replace)),
    ("join", _joined),
    ("indent", _indent),
    ("round", _round),
    ("sum", _sum),
    ("format", _printf),
)
"""Jinja's filters, less those for HTML (urlize, striptags, xmlattr, wordwrap), `pprint`, and
`random`, by which a template would say another thing each time."""


def filters(env: Any, original: Mapping[str, Any]) -> dict[str, Any]:
    """The filters of a sandbox, made of Jinja's."""
    found = {name: original[name] for name in FREE}
    found |= {name: _filter(env, original[name], check) for name, check in FILTERS.items()}
    return found | {
        "trim": functools.partial(trim, env),
        "tojson": functools.partial(tojson, env),
    }


def _filter(env: Any, original: Callable[..., Any], check: Check) -> Callable[..., Any]:
    before = 0 if getattr(original, "jinja_pass_arg", None) is None else 1  # the environment, ...

    @functools.wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        env.spend(CALL)
        given, value, rest = args[:before], args[before], args[before + 1 :]
        made = original(*given, *(check(env, value, rest, kwargs) or (value, *rest)), **kwargs)
        if isinstance(made, collections.abc.Iterator):
            made = iter(env.sized(list(made)))  # now, and not all of many nested ones in one step
        return env.sized(made)

    return counted


# ------------------------------------------------------------------------------------------- tests


def _both(env: Any, *values: Any) -> None:
    env.weigh(values)


def _number(env: Any, value: Any, *args: Any) -> None:
    if not isinstance(value, int | float):  # of a text, % is a format
        raise TypeError(f"expected a number, found {type(value).__name__}")


TESTS = _table(
    ("== eq equalto != ne > gt greaterthan >= ge < lt lessthan <= le lower upper", _both),
    ("odd even divisibleby", _number),
)
"""Those of Jinja's tests that do more than look at the type of a value."""


def tests(env: Any, original: Mapping[str, Any]) -> dict[str, Any]:
    """The tests of a sandbox, made of Jinja's."""
    counted = {name: _test(env, original[name], check) for name, check in TESTS.items()}
    return {**original, **counted, "in": env.member}


def _test(env: Any, original: Callable[..., bool], check: Check) -> Callable[..., bool]:
    @functools.wraps(original)
    def counted(*args: Any) -> bool:
        env.spend(CALL)
        check(env, *args)
        return original(*args)

    return counted
