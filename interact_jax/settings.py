"""What a setting of a run is: its default, and everything that is to be known of it.

A setting stands once, in the module that it changes, under its full name; `config` gathers them:

    SETTINGS = {"optim.lr": Setting(2e-6, "learning rate at its peak", least=0)}

Its type is that of the default, so no default is None: where 0, inf or "" means "off", the
meaning says so.
"""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

from interact_jax.schema import InputError


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting's default and meaning, in a line; what is allowed: one of `choices`, a number from
    `least` to `most`, or larger than `above`. `free` settings may change when a run is resumed:
    they are about how it is computed and how long it goes on, not about what it learns."""

    default: Any
    meaning: str
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    free: bool = False
    before: Any = None  # what it was for runs that were begun before it came, as JSON has it

    def check(self, name: str, value: Any) -> None:
        """Raise InputError for a value that cannot be meant."""
        if self.choices and value not in self.choices:
            listed = ", ".join(repr(choice) for choice in self.choices)
            raise InputError(f"{name}={value!r}: expected one of {listed}.")
        if self.least is not None and not value >= self.least:
            raise InputError(f"{name}={value!r}: expected at least {self.least} ({self.meaning}).")
        if self.most is not None and not value <= self.most:
            raise InputError(f"{name}={value!r}: expected at most {self.most} ({self.meaning}).")
        if self.above is not None and not value > self.above:
            raise InputError(f"{name}={value!r}: expected more than {self.above} ({self.meaning}).")

    def describe(self, name: str) -> str:
        """For `--help`: name and default, then what it means, 80 columns wide."""
        choices = f" ({', '.join(map(str, self.choices))})" if self.choices else ""
        indent = " " * 6
        told = textwrap.fill(
            self.meaning + choices, 79, initial_indent=indent, subsequent_indent=indent
        )
        return f"  --config.{name}={self.default!r}\n{told}"
