"""The definition of a run's setting: its default, meaning and bounds.

A setting is defined once, in the module that it affects, under its full name; `config` collects
them:

    SETTINGS = {"optim.lr": Setting(2e-6, "learning rate at its peak", least=0)}

Its type is that of the default, so no default is None: where 0, inf or "" means "off", its meaning
says so.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from typing import Any

from interact_jax.schema import InputError

MOST_COUNTED = 2**31 - 1  # steps, and what they are compared with, are int32 on the device
MOST_SEED = 2**32 - 1  # numpy, grain and jax take seeds of 32 bits
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
SMALLEST, LARGEST = 2.0**-126, 2.0**128 * (1 - 2.0**-24)  # the range of normal float32 numbers


def kind_of(example: Any) -> str:
    """What a value of the same type is called: "a whole number, such as 512"; an example that
    stands for "off" is none."""
    kind = type(example)
    return KINDS[kind] + (f", such as {example!r}" if example and kind is not bool else "")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting's default and one-line meaning; the allowed values: one of `choices`, a number from
    `least` to `most`, or larger than `above`. `free` settings may change when a run is resumed:
    they affect how it is computed and how long it goes on, not what it learns."""

    default: Any
    meaning: str
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    free: bool = False
    before: Any = None  # its value for runs that are older than the setting, as in JSON

    def check(self, name: str, value: Any) -> None:
        """Raise InputError for an invalid value."""
        kind = type(self.default)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise InputError(f"{name}={value!r}: expected {kind_of(self.default)}.")
        if self.choices and value not in self.choices:
            listed = ", ".join(repr(choice) for choice in self.choices)
            raise InputError(f"{name}={value!r}: expected one of {listed}.")
        if self.least is not None and not value >= self.least:
            raise InputError(f"{name}={value!r}: expected at least {self.least} ({self.meaning}).")
        if self.most is not None and not value <= self.most:
            raise InputError(f"{name}={value!r}: expected at most {self.most} ({self.meaning}).")
        if self.above is not None and not value > self.above:
            raise InputError(f"{name}={value!r}: expected more than {self.above} ({self.meaning}).")
        finite = kind is float and math.isfinite(value)
        if (
            finite and value and not SMALLEST <= abs(value) <= LARGEST
        ):  # it would become 0 or infinity
            raise InputError(
                f"{name}={value!r}: expected a number that float32 holds, from {SMALLEST:.2g} to "
                f"{LARGEST:.2g} ({self.meaning})."
            )

    def describe(self, name: str) -> str:
        """The text for `--help`: name and default, then the meaning, 80 columns wide."""
        choices = f" ({', '.join(map(str, self.choices))})" if self.choices else ""
        indent = " " * 6
        meaning = textwrap.fill(
            self.meaning + choices, 79, initial_indent=indent, subsequent_indent=indent
        )
        return f"  --config.{name}={self.default!r}\n{meaning}"
