"""Jinja's sandbox with a count of the work that is left."""

from __future__ import annotations

import collections.abc
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes, runtime, sandbox

from interact_jax.data.sandbox import allowed
from interact_jax.data.sandbox.bounds import (
    BITS,
    CALL,
    DEPTH,
    LONGEST,
    LONGEST_A_CHARACTER,
    NEEDLE,
    UNITS,
    UNITS_A_CHARACTER,
    WIDTH,
    TooMuch,
)
from interact_jax.data.sandbox.counting import Counting

SCALARS = frozenset((bool, float, type(None), runtime.Undefined))
SMALL = 1 << 64  # of a whole number


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks what an assistant wrote, which changes nothing in the text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("written"), [], [], body).set_lineno(line)

    def written(self, caller: Callable[[], str]) -> str:
        return caller()


class Sandbox(sandbox.ImmutableSandboxedEnvironment):
    """Where one template is compiled and rendered, by one thread at a time."""

    code_generator_class = Counting
    intercepted_binops = frozenset(("*", "**", "%"))  # so they are not computed when compiled

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, Generation],
        )
        self.filters = allowed.filters(self, self.filters)
        self.tests = allowed.tests(self, self.tests)
        self.globals = dict(allowed.FUNCTIONS)
        self._functions = tuple(self.globals.values())
        self.start(0)

    def start(self, size: int) -> None:
        """Begin to count, for messages of so many characters."""
        self.left = UNITS + UNITS_A_CHARACTER * size
        self.longest = LONGEST + LONGEST_A_CHARACTER * size

    # ---------------------------------- called at nearly every step of a template: little is done

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise TooMuch("it takes too many steps")

    def tried(self, units: int) -> bool:
        """In front of the condition of `{% for x in y if condition %}`."""
        self.spend(units)
        return True

    def sized(self, value: Any) -> Any:
        """A value that was just made: a text, a list or a number."""
        if type(value) is str:
            size = len(value)
            self.left -= size >> 4
            if size > self.longest or self.left < 0:
                self._refuse(size)
        elif isinstance(value, int):
            if value.bit_length() > BITS:
                raise TooMuch(f"it makes a number of {value.bit_length():,} bits")
        elif isinstance(value, list | tuple | str):
            size = len(value)
            self.left -= size
            if size > self.longest or self.left < 0:
                self._refuse(size)
        return value

    def shown(self, value: Any) -> str:
        """Any value as the text that is put out."""
        if type(value) is not str:
            self.weigh(value)
            value = str(value)
        size = len(value)
        self.left -= size >> 4
        if size > self.longest or self.left < 0:
            self._refuse(size)
        return value

    def _refuse(self, size: int) -> NoReturn:
        self.check_size(size)
        raise TooMuch("it takes too many steps")

    def check_size(self, size: int) -> None:
        if size > self.longest:
            raise TooMuch(f"it makes a text or list of {size:,} parts")

    # -------------------------------------------------- what goes through values inside of values

    def weigh(self, value: Any) -> int:
        """About as many characters as a value has as text, its parts and theirs included.

        Lists that hold a list twice, over and over, are small in memory and endless to go through:
        everything that does so asks here first.
        """
        if type(value) is str:
            self.spend(len(value) >> 4)
            return len(value)
        if type(value) in SCALARS or (type(value) is int and -SMALL < value < SMALL):
            return 8
        weight, level, depth = 0, [value], 0
        while level:
            if depth > DEPTH:
                raise TooMuch(f"it makes lists in lists, {depth} deep")
            inner: list[Any] = []
            for item in level:
                weight += 8
                if isinstance(item, str):
                    weight += len(item)
                elif isinstance(item, int):
                    weight += item.bit_length() >> 1
                elif isinstance(item, Mapping):
                    inner += [*item.keys(), *item.values()]
                elif isinstance(item, allowed.CONTAINERS):
                    inner += item
                if weight + len(inner) > self.longest:
                    raise TooMuch("it makes a nested value of too many parts")
            level, depth = inner, depth + 1
        self.spend(weight >> 3)
        return weight

    def weighed(self, value: Any) -> Any:
        """A value that is compared or hashed."""
        self.weigh(value)
        return value

    def joined(self, *parts: Any) -> str:
        """`a ~ b ~ c`."""
        texts = [self.shown(part) for part in parts]
        self.check_size(sum(map(len, texts)))
        return self.sized("".join(texts))

    def member(self, left: Any, right: Any) -> bool:
        """`left in right`."""
        if isinstance(right, str):
            if isinstance(left, str):
                self.spend(len(right) * min(len(left), NEEDLE) >> 6)
        elif isinstance(right, Mapping):
            self.weigh(left)
        else:
            right = list(right) if isinstance(right, collections.abc.Iterator) else right
            self.weigh(left)
            self.weigh(right)
            self.spend(len(right) if isinstance(right, range) else 1)
        return left in right

    # ------------------------------------------------------------------------------------ operators

    def times(self, left: Any, right: Any) -> Any:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, str | list | tuple) and isinstance(other, int):
                self.check_size(len(one) * other)
        return self.sized(left * right)

    def power(self, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right)
            if bits > BITS:
                raise TooMuch(f"it makes a number of up to {bits:,} bits")
        return left**right

    def modulo(self, left: Any, right: Any) -> Any:
        if not isinstance(left, str):
            return left % right
        self.check_printf(left, right)
        return self.sized(left % right)

    def check_printf(self, form: str, values: Any) -> None:
        """Before `form % values`: no padding to speak of, and values as often as they are named."""
        several = values if isinstance(values, tuple) else (values,)
        stars = [v for v in several if isinstance(v, int)] if "*" in form else []
        if re.search(r"\d{5}", form) or any(abs(star) >= WIDTH for star in stars):
            raise TooMuch(f"it pads a text to {WIDTH:,} characters or more")
        self.check_size(len(form) + form.count("%") * self.weigh(values))

    # ---------------------------------------------------------------------------------------- calls

    def call(self, context: runtime.Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what may be called; `context.call` takes out the keywords that Jinja adds."""
        kind = type(function)
        if kind is types.BuiltinMethodType or kind is types.MethodType:
            owner = function.__self__
            if (check := allowed.method(owner, function.__name__)) is not None:
                kwargs.pop("_loop_vars", None)
                kwargs.pop("_block_vars", None)
                args = check(self, owner, args, kwargs) or args
                return self.sized(function(*args, **kwargs))
            if isinstance(owner, (*allowed.OWNERS, Generation, Sandbox)):
                self.spend(CALL)
                self.weigh(args)
                return context.call(function, *args, **kwargs)
        elif kind in allowed.CALLABLE or kind is Format or function in self._functions:
            self.spend(CALL)
            if kind is not runtime.Macro:
                self.weigh(args)
            return context.call(function, *args, **kwargs)
        name = getattr(function, "__qualname__", kind.__name__)
        raise jinja2.exceptions.SecurityError(f"{name} cannot be called in a chat template")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if isinstance(value, types.BuiltinMethodType | types.MethodType):
            name, text = value.__name__, value.__self__
            if name in ("format", "format_map") and isinstance(text, str):
                return Format(self, text, name)
        return None


class Format:
    """The method `format` or `format_map` of a text."""

    def __init__(self, env: Sandbox, text: str, name: str) -> None:
        self.env, self.text, self.name = env, text, name

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        if self.name == "format_map":
            (kwargs,), args = args, ()
        return type(self.text)(_Formatter(self.env).vformat(self.text, args, kwargs))


class _Formatter(sandbox.SandboxedFormatter):
    """Counts each part of a text before it is made."""

    def __init__(self, env: Sandbox) -> None:
        super().__init__(env)
        self.size = 0

    def convert_field(self, value: Any, conversion: Any) -> Any:
        self._env.weigh(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, spec: str) -> str:
        if re.search(r"\d{5}", spec):
            raise TooMuch(f"it pads a text to {WIDTH:,} characters or more")
        self._env.weigh(value)
        text = self._env.sized(super().format_field(value, spec))
        self.size += len(text)
        self._env.check_size(self.size)
        return text
