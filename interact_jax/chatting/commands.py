"""What a line of input means: a message, or a command with its argument."""

from __future__ import annotations

import dataclasses
import difflib

from interact_jax.schema import InputError

MARK = "/"


@dataclasses.dataclass(frozen=True)
class Command:
    """`argument` as it is shown, "" where there is none; in brackets where it may be left out."""

    argument: str
    meaning: str


COMMANDS = {
    "signal": Command(
        "[numbers]",
        "the reply before your last message, coloured by what that message says of it: red where"
        " it makes a token less likely, blue where more; with numbers, a line per token",
    ),
    "learn": Command(
        "[N]", "learn from this conversation: N steps, by default 1, each on all of its replies"
    ),
    "undo": Command("", "the parameters before the last /learn; several times, if need be"),
    "retry": Command("", "another reply to your last message"),
    "back": Command("", "remove your last message and its reply"),
    "new": Command("", "begin another conversation"),
    "system": Command(
        "[TEXT]", "begin another conversation with this system message; off = none; or show it"
    ),
    "save": Command("DIR", "write the model as it is now, as a Hugging Face directory"),
    "help": Command("", "this list"),
    "quit": Command("", "leave; Ctrl-D does, too"),
}
TEXT = "//text"
TEXT_MEANING = "say /text"


@dataclasses.dataclass(frozen=True)
class Line:
    """A message (`command` is "") or a command, and its text or argument."""

    command: str
    text: str


def parse(line: str) -> Line:
    """Raises InputError for what looks like a command and is none, and for a wrong argument."""
    if line.startswith(2 * MARK) or not line.startswith(MARK):
        return Line("", line.removeprefix(MARK))
    name, _, argument = line.removeprefix(MARK).partition(" ")
    name, argument = name.strip(), argument.strip()
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name.lower(), COMMANDS, n=1, cutoff=0.5)
        meant = f"Did you mean {MARK}{near[0]}?" if near else f"{MARK}help lists them."
        raise InputError(
            f"{MARK}{name}: there is no such command. {meant} To say it, type {MARK}{line}"
        )
    if argument and not command.argument:
        raise InputError(f"{MARK}{name} takes nothing after it, found {argument!r}.")
    if not argument and command.argument and not command.argument.startswith("["):
        raise InputError(f"{MARK}{name}: expected {MARK}{name} {command.argument}.")
    return Line(name, argument)


def number_of_steps(argument: str) -> int:
    """The argument of /learn. Raises InputError unless it is a number from 1 on."""
    if not argument:
        return 1
    if not (argument.isascii() and argument.isdecimal() and int(argument) > 0):
        raise InputError(f"/learn {argument}: expected a number of steps, 1 or more.")
    return int(argument)
