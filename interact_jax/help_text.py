"""How `--help` prints a program's docstring, at the width of the terminal.

Prose is wrapped; a command that is too long continues on the next line, after a backslash:

    python launch/score.py --model pocket --data logs.jsonl \\
        --out scores.jsonl --report report/
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable

COMMAND = re.compile(r" {4}(python|interact|echo) ")  # how a line with an example begins
CONTINUED = re.compile(r" \\\n\s+")
WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")  # with quoted parts
INDENT, DEEPER = " " * 4, " " * 8
BACKSLASH = " \\"
LONGEST_CHOICES = 48  # columns


class Paragraphs(argparse.RawDescriptionHelpFormatter):
    """Description and epilog in their paragraphs; many choices stand in the help of an argument,
    where they are wrapped, and not in the usage."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(fold(block, width) for block in text.strip("\n").split("\n\n"))

    def _metavar_formatter(
        self, action: argparse.Action, default_metavar: str
    ) -> Callable[[int], tuple[str, ...]]:
        if many_choices(action):
            return lambda size: ("NAME",) * size
        return super()._metavar_formatter(action, default_metavar)

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        return f"{text}; one of {many_choices(action)}" if many_choices(action) else text


class Help(Paragraphs, argparse.ArgumentDefaultsHelpFormatter):
    """The same, and the default of every argument that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        empty = action.default is None or action.default is False or action.default in ("", [])
        return action.help if empty else super()._get_help_string(action)


def many_choices(action: argparse.Action) -> str:
    """The choices of an argument, if they are too long for its usage."""
    if action.metavar is not None or action.choices is None:
        return ""
    choices = ", ".join(map(str, action.choices))
    return choices if len(choices) > LONGEST_CHOICES else ""


def fold(block: str, width: int) -> str:
    """A paragraph in lines of `width` columns, where that is possible; tables stay as they are."""
    if all(len(line) <= width for line in block.splitlines()):
        return block
    if COMMAND.match(block):
        commands = CONTINUED.sub(" ", block).splitlines()
        return "\n".join(fold_command(line, width) for line in commands)
    if re.search(r"^\s", block, re.MULTILINE):
        return block
    return textwrap.fill(block, width, break_long_words=False, break_on_hyphens=False)


def fold_command(line: str, width: int) -> str:
    """A command in lines of `width` columns, broken between arguments."""
    first, *rest = arguments_of(line)
    lines, current = [], INDENT + first
    for argument in rest:
        if len(current) + 1 + len(argument) + len(BACKSLASH) > width:
            lines.append(current + BACKSLASH)
            current = DEEPER + argument
        else:
            current += f" {argument}"
    return "\n".join([*lines, current])


def arguments_of(line: str) -> list[str]:
    """The words of a command, a flag together with its value."""
    arguments: list[str] = []
    for word in WORD.findall(line):
        bare = arguments and re.fullmatch(r"--[^\s=]+", arguments[-1])
        if bare and not word.startswith("--"):
            arguments[-1] += f" {word}"
        else:
            arguments.append(word)
    return arguments
