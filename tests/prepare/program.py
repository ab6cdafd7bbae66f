"""The program with the filters of `little`, for tests that kill it.

    python -m tests.prepare.program --data ...      the program
    python -m tests.prepare.program serve           forks one for each line of JSON on stdin

Importing jax takes seconds, which a fork has behind it. A line is {"given": arguments, "log": file
of its output, "most": largest file in bytes}; "wait" waits for the last one. The answer is its
process id, or its status.
"""

import json
import os
import resource
import sys

from interact_jax import cli, startup
from launch import prepare_data
from tests.prepare.little import parse_filter

prepare_data.parse_filter = parse_filter


def serve():
    child = 0
    for line in sys.stdin:
        if line.strip() == "wait":
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        child = os.fork()
        if not child:
            run(**json.loads(line))
        print(child, flush=True)


def run(given, log, most):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.argv[1:] = given
    startup.begin()
    cli.run(prepare_data.main)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        startup.begin()
        cli.run(prepare_data.main)
