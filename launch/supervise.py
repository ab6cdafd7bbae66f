"""Run a program in several processes, on one machine or on several, and watch over them.

    python launch/supervise.py --local 2 launch/train.py --config configs/quickstart.py --workdir W
    python launch/supervise.py --coordinator node-0:8476 --machines 4 --machine 0 \\
        launch/train.py --config configs/offline_wildfeedback.py --workdir gs://BUCKET/run

The second form is for every machine, with its own number; under SLURM or Open MPI, with one task a
machine, none of the three is needed. What happens to a process is said with its number and machine:
that it never came, was killed, or stands still. Then all end, and with --restarts they start again,
and resume from the last checkpoint.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

import argparse
import asyncio
import logging
import os
import sys

from interact_jax import cli
from interact_jax.arguments import Parser
from interact_jax.cluster.conductor import Limits
from interact_jax.cluster.place import Flags, find
from interact_jax.cluster.supervisor import Machine, Supervisor, commands
from interact_jax.help_text import Help
from interact_jax.schema import InputError

HERE = "127.0.0.1:8476"  # of processes of one machine
SECONDS = cli.at_least(1, float)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = parser.add_argument
    add("--local", type=cli.at_least(1), default=1, metavar="K", help="processes on each machine")
    add("--machines", type=cli.at_least(0), default=0, metavar="N", help="how many there are")
    add("--machine", type=cli.at_least(-1), default=-1, metavar="I", help="which this is, from 0")
    add(
        "--coordinator",
        default="",
        metavar="HOST:PORT",
        help="machine 0; this port there and the next one have to be free",
    )
    limits = Limits()
    add("--restarts", type=cli.at_least(0), default=limits.restarts, metavar="N")
    add("--join", type=SECONDS, default=limits.join, metavar="S", help="for all to come")
    add("--stalled", type=SECONDS, default=limits.stalled, metavar="S", help="without life")
    add("--end", type=SECONDS, default=limits.end, metavar="S", help="from SIGTERM to SIGKILL")
    add("program", nargs=argparse.REMAINDER, help="the program and its arguments")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    cli.log_to_stderr(logging.WARNING)
    if not args.program:
        raise InputError("expected a program, such as launch/train.py, and its arguments.")
    machine = machine_of(args)
    limits = Limits(args.join, args.stalled, args.end, args.restarts)
    supervisor = Supervisor(commands(args.program, sys.executable), machine, limits)
    if status := asyncio.run(supervisor.run()):
        raise SystemExit(status)


def machine_of(args: argparse.Namespace) -> Machine:
    """This machine, from flags or from a launcher that starts a task on each."""
    place = find(Flags(args.coordinator, args.machines, args.machine), os.environ)
    return Machine(place.coordinator or HERE, place.processes, place.process, args.local)


if __name__ == "__main__":
    cli.run(main)
