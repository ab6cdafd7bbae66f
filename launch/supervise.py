"""Start the processes of a run on this machine, watch them, and end all when one fails.

    python launch/supervise.py --local 2 launch/train.py --config configs/quickstart.py \\
        --workdir runs/two

On several machines, the same command on each, with the address of the first:

    python launch/supervise.py --machines 4 --machine 0 --coordinator node-0:8476 \\
        launch/train.py ...

The program is a file, or a command of `interact` that makes one run of several: train, export.
With --gpus a machine's GPUs are shared out over its processes: --local 4 --gpus 0,1,2,3.

What follows the program's name are its own arguments. Where a process is killed, stands still or
was never started, it is named, and all others are ended; with --restarts they are started again,
and a run goes on from its last checkpoint. Ctrl-C and SIGTERM are passed on: a run saves and ends.
The exit status is that of the process that failed, 0 where all ended well.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from interact_jax import cli
from interact_jax.arguments import Parser
from interact_jax.cluster.conductor import Limits
from interact_jax.cluster.supervisor import Machine, Supervisor, commands
from interact_jax.help_text import Paragraphs
from interact_jax.printable import count
from interact_jax.schema import InputError

HERE = "127.0.0.1:8476"
HELP = ("-h", "--help")


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments before the program, and the program with its own."""
    parser = Parser(
        description=__doc__,
        formatter_class=Paragraphs,
        usage="%(prog)s [--local N] [--gpus 0,1,...]\n"
        "       [--machines N --machine I --coordinator HOST:PORT] PROGRAM ...",
    )
    add, limits = parser.add_argument, Limits()
    add("--local", type=cli.at_least(1), default=1, help="processes on each machine")
    add(
        "--gpus",
        type=gpus,
        default=(),
        metavar="N,N,...",
        help="of each machine, by number, an equal share for each process (default: all see all)",
    )
    add("--machines", type=cli.at_least(1), default=1, help="how many machines there are")
    add("--machine", type=cli.at_least(0), default=0, help="which one this is: 0, 1, ...")
    add(
        "--coordinator",
        default=HERE,
        metavar="HOST:PORT",
        help=f"address of machine 0, where this port and the next are free (default {HERE})",
    )
    add("--restarts", type=cli.at_least(0), default=0, help="how often to start again")
    add(
        "--join",
        type=cli.at_least(1, float),
        default=limits.join,
        help=f"seconds for all machines to come (default {limits.join:.0f})",
    )
    add(
        "--stalled",
        type=cli.at_least(5, float),
        default=limits.stalled,
        help="seconds without a sign of life after which a process counts as standing still "
        f"(default {limits.stalled:.0f})",
    )
    add(
        "--end",
        type=cli.at_least(0, float),
        default=limits.end,
        help=f"seconds from SIGTERM to SIGKILL (default {limits.end:.0f})",
    )
    given = sys.argv[1:] if argv is None else argv
    at = 0
    while at < len(given) and given[at].startswith("-") and given[at] != "--":
        at += 1 if "=" in given[at] or given[at] in HELP else 2  # all others have a value
    at_program = at + (given[at : at + 1] == ["--"])
    return parser.parse_args(given[:at]), given[at_program:]


def gpus(text: str) -> tuple[int, ...]:
    """The type of --gpus: "0,2" -> (0, 2)."""
    numbers = text.split(",")
    if not all(number.isascii() and number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers of GPUs, such as 0,1,2,3")
    found = tuple(map(int, numbers))
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text}: expected every GPU once")
    return found


def shared_out(numbers: Sequence[int], local: int) -> tuple[tuple[int, ...], ...]:
    """The GPUs of each of so many processes, in order: (0, 1, 2, 3), 2 -> ((0, 1), (2, 3)); empty
    where none are given. Raises InputError where they cannot be shared out."""
    if len(numbers) % local:
        raise InputError(
            f"--gpus: {count(len(numbers), 'GPU')} cannot be shared out equally over --local "
            f"{local} processes. Give a multiple of {local}."
        )
    size = len(numbers) // local
    shares = [tuple(numbers[n * size : (n + 1) * size]) for n in range(local)]
    return tuple(shares) if size else ()


def main(argv: list[str] | None = None) -> None:
    args, command = parse(argv)
    cli.log_to_stderr(logging.INFO)
    if not command:
        raise InputError("expected a program to start, such as launch/train.py, behind the flags.")
    if args.machine >= args.machines:
        raise InputError(
            f"--machine {args.machine}: expected a number below --machines {args.machines}; the "
            "first machine is 0."
        )
    if args.machines > 1 and args.coordinator == HERE:
        raise InputError(
            f"--machines {args.machines}: give the address of machine 0, --coordinator HOST:PORT, "
            "to each of them."
        )
    devices = shared_out(args.gpus, args.local)
    machine = Machine(args.coordinator, args.machines, args.machine, args.local, devices)
    limits = Limits(args.join, args.stalled, args.end, args.restarts)
    supervisor = Supervisor(commands(command, sys.executable), machine, limits)
    if status := asyncio.run(supervisor.run()):
        sys.exit(status)


if __name__ == "__main__":
    cli.run(main)
