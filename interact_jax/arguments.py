"""How programs read their arguments, and what they say to those that they do not know.

    $ interact plan --config dpo --topolgy v5e:2x2
    error: --topolgy: there is no such option. Did you mean --topology?
    `interact plan --help` shows all arguments.

Options that do not exist come first: they are the likely reason why another one is missing.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from interact_jax import config
from interact_jax.schema import InputError
from interact_jax.settings import KINDS

SETTING = "--config."  # how the name of a setting begins on the command line
# What argparse takes for an option, known or not; "-5" and "-- a text" are values.
OPTION = re.compile(r"--?[^\W\d][^ ]*")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that refuses arguments as everything else is refused, with an InputError:
    one message without the usage, which `cli.run` prints."""

    otherwise = ""  # what is said where no option has a similar name

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for kind in (int, float):
            self.register("type", kind, reader(kind))

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Only arguments that the parser `lets_through` are returned beside the namespace."""
        given = list(sys.argv[1:] if args is None else args)
        own = self.own_part(given)
        if not {"-h", "--help"} & set(own):
            self.refuse(own, (at for at, one in enumerate(own) if self.is_unknown_option(one)))
        found, rest = super().parse_known_args(given, namespace)
        self.refuse(rest, (at for at, one in enumerate(rest) if not self.lets_through(one)))
        return found, rest

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\n`{self.prog} --help` shows all arguments.")

    def refuse(self, given: Sequence[str], places: Iterable[int]) -> None:
        """Name the arguments at these places, if there are any."""
        said = {}  # an option that is given twice is named once, with its last value
        for at in places:
            name, equals, value = given[at].partition("=")
            following = given[at + 1 : at + 2]
            if not equals and following and not following[0].startswith("--"):
                value = following[0]
            said[name] = self.complaint(name, value)
        if said:
            self.error("\n".join(said.values()))

    def complaint(self, name: str, value: str) -> str:
        """What to say of an argument NAME=VALUE, or NAME VALUE, that is not known."""
        if not name.startswith("-"):
            return f"{name}: this argument belongs to no option."
        return f"{name}: there is no such option.{did_you_mean(self.near(name)) or self.otherwise}"

    def near(self, name: str) -> list[str]:
        return difflib.get_close_matches(name, self.options(), n=1)

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def own_part(self, given: Sequence[str]) -> list[str]:
        """The arguments before "--", and before the command that has a parser of its own."""
        own = itertools.takewhile(lambda one: one != "--", given)
        if self._subparsers is not None:
            own = itertools.takewhile(lambda one: one.startswith("-"), own)
        return list(own)

    def is_unknown_option(self, argument: str) -> bool:
        if not OPTION.fullmatch(argument) or self.lets_through(argument):
            return False
        name, known = argument.partition("=")[0], self.options()
        if not name.startswith("--"):
            return name[:2] not in known  # a letter may be followed by its value
        abbreviates = self.allow_abbrev and any(one.startswith(name) for one in known)
        return name not in known and not abbreviates

    def lets_through(self, argument: str) -> bool:
        return False

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        option = "/".join(action.option_strings)
        thing = "choice" if option else action.dest
        choices = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value), choices, n=1)
        said = f"{option} {value}: there is no such {thing}.{did_you_mean(near)}".lstrip()
        self.error(f"{said} Available: {', '.join(choices)}.")


class SettingsParser(Parser):
    """Lets --config.KEY=VALUE through, and knows how a setting that is given otherwise is
    written."""

    otherwise = f" Settings are given as {SETTING}KEY=VALUE."

    def lets_through(self, argument: str) -> bool:
        return argument.startswith(SETTING) and "=" in argument

    def complaint(self, name: str, value: str) -> str:
        setting = self.setting_meant(name)
        written = f"{SETTING}{setting}={shlex.quote(value) if value else 'VALUE'}"
        if not setting:
            return super().complaint(name, value)
        if name == SETTING + setting:
            return f"{name}: expected {written}."
        return f"{name}: there is no such option.{did_you_mean([written])}"

    def setting_meant(self, name: str) -> str:
        """The setting that was probably meant; "" where an option was, or nothing that exists."""
        known = list(config.settings())
        bare = name.lstrip("-").removeprefix("config.").replace("-", "_")
        meant = [bare] if bare in known else config.same_elsewhere(bare, known)
        if not meant and (is_prefixed(name) or (name.startswith("-") and not self.near(name))):
            meant = config.similar(bare, known)
        return meant[0] if meant else ""

    def near(self, name: str) -> list[str]:
        return [] if is_prefixed(name) else super().near(name)


def is_prefixed(name: str) -> bool:
    """With or without dashes, it begins as settings do."""
    return name.lstrip("-").startswith("config.")


def did_you_mean(matches: Sequence[str]) -> str:
    return f" Did you mean {matches[0]}?" if matches else ""


def reader(kind: type) -> Callable[[str], Any]:
    """The type of an argument of this kind, which says what it expects in our words."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: expected {KINDS[kind]}") from None

    return read
