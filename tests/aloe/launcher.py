"""Runs launch/aloe.py in processes of their own, which can be killed.

A process imports what the program needs, which takes seconds, and forks for every line of standard
input: the program's arguments as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import IO, Any, cast

from tests.compiling import flags_of_one_device
from tests.runs import ROOT


class Launcher:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.aloe.launcher"],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": flags_of_one_device(), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: object) -> int:
        """Start the program; returns its process's number."""
        stdin = cast(IO[str], self._process.stdin)
        stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        stdin.flush()
        return int(self._line())

    def status(self) -> int:
        """Wait for its end; the number of the signal that ended it is negative."""
        return int(self._line())

    def _line(self) -> str:
        return cast(IO[str], self._process.stdout).readline()

    def run(self, *arguments: object) -> int:
        self.start(*arguments)
        return self.status()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    from interact_jax import cli
    from launch import aloe

    for line in sys.stdin:
        arguments: Any = json.loads(line)
        if not (child := os.fork()):
            os.dup2(2, 1)  # standard output is the protocol's
            cli.run(functools.partial(aloe.main, arguments))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
