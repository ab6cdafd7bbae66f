"""The command `interact`: every program in launch/ by its name.

    interact train --config quickstart --workdir runs/quickstart

It is `python launch/train.py` with other words: the same file runs as the main program, with its
own arguments, messages and exit status. So nothing here knows what a program takes, and a new file
in launch/ is a new command.
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
    """Run the program that the first argument names; the exit status where it is not one."""
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
    as_main(shipped.folder("launch") / f"{programs[name]}.py")
    return 0


def overview(programs: dict[str, str]) -> str:
    """The commands, each with the first line of what its program says of itself."""
    lines = []
    for command, program in programs.items():
        text = (shipped.folder("launch") / f"{program}.py").read_text(encoding="utf-8")
        said = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
        indent = " " * 14
        told = textwrap.fill(said, 78, initial_indent=indent, subsequent_indent=indent)
        lines.append(f"  {command:<12}{told[14:]}")
    return "\n".join(
        [
            "usage: interact COMMAND ...",
            "",
            "  interact train --config quickstart --workdir runs/quickstart",
            "",
            "commands:",
            *lines,
            "",
            "`interact COMMAND --help` tells what one takes. Where it says python launch/train.py,",
            "interact train is the same; recipes in configs/ are found by name: --config dpo.",
        ]
    )


def refusal(given: str, commands: list[str]) -> str:
    near = difflib.get_close_matches(given, commands, n=1)
    said = f"{given}: there is no such command." if given else "which command?"
    meant = f" Did you mean {near[0]}?" if near else ""
    return f"error: interact {said}{meant} There is: {', '.join(commands)}."


def as_main(file: Path) -> None:
    """What `python FILE` does, with the arguments as they are now: processes that the program
    starts find its main module, and modules that lie beside it are found."""
    program = ModuleType("__main__")
    program.__file__ = str(file)
    sys.modules["__main__"] = program
    sys.path.insert(0, str(file.parent))
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), program.__dict__)
