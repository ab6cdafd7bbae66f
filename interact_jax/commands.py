"""The command `interact`: every program in launch/ by its name.

    interact train --config quickstart --workdir runs/quickstart

This is equivalent to `python launch/train.py`: the same file runs as the main program, with its own
arguments, messages and exit status. So this module knows nothing about a program's arguments, and a
new file in launch/ is a new command.
"""

from __future__ import annotations

import ast
import difflib
import sys
import textwrap
from pathlib import Path
from types import ModuleType

from interact_jax import __version__, shipped

STATUS_BAD_ARGUMENTS = 2


def main() -> int:
    """Run the program named by the first argument; returns the exit status."""
    programs = {name.replace("_", "-"): name for name in shipped.names("launch")}
    name, *rest = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(overview(programs))
        return 0
    if name == "--version":
        print(f"interact_jax {__version__}")
        return 0
    if name not in programs:
        print(refusal(name, list(programs)), file=sys.stderr)
        return STATUS_BAD_ARGUMENTS
    sys.argv = [f"interact {name}", *rest]
    run_as_main(shipped.folder("launch") / f"{programs[name]}.py")
    return 0


def overview(programs: dict[str, str]) -> str:
    """The commands, each with the first paragraph of its program's docstring."""
    lines = []
    for command, program in programs.items():
        text = (shipped.folder("launch") / f"{program}.py").read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
        indent = " " * 16
        wrapped = textwrap.fill(summary, 78, initial_indent=indent, subsequent_indent=indent)
        lines.append(f"  {command:<14}{wrapped[16:]}")
    return "\n".join(
        [
            "usage: interact COMMAND ...",
            "",
            "  interact train --config quickstart --workdir runs/quickstart",
            "",
            "commands:",
            *lines,
            "",
            "`interact COMMAND --help` shows its arguments. Where it says python",
            "launch/train.py, interact train is the same; recipes in configs/ are found by",
            "name: --config dpo.",
        ]
    )


def refusal(given: str, commands: list[str]) -> str:
    matches = difflib.get_close_matches(given, commands, n=1)
    problem = f"{given}: there is no such command." if given else "which command?"
    suggestion = f" Did you mean {matches[0]}?" if matches else ""
    return f"error: interact {problem}{suggestion} Available: {', '.join(commands)}."


def run_as_main(file: Path) -> None:
    """Do what `python FILE` does, with the current sys.argv: processes that the program starts find
    its main module, and modules beside it can be imported."""
    program = ModuleType("__main__")
    program.__file__ = str(file)
    sys.modules["__main__"] = program
    sys.path.insert(0, str(file.parent))
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), program.__dict__)
