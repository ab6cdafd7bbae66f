"""Make the shipped parts of the pocket world: the model, its figures, the logs.

    python launch/make_pocket.py train --out runs/pocket
    python launch/make_pocket.py export --run runs/pocket --out interact_jax/pocket/model
    python launch/make_pocket.py gate --model interact_jax/pocket/model --out figures.json
    python launch/make_pocket.py logs --model interact_jax/pocket/model \\
        --out interact_jax/pocket/logs.jsonl.gz

Nothing is downloaded. Two CPU cores train such a model in about an hour; `export` may run then.
docs/pocket.md says how the shipped ones came about.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interact_jax import cli, places
from interact_jax.arguments import Parser
from interact_jax.help_text import Paragraphs
from interact_jax.pocket import logs, measure, world
from interact_jax.pocket.speaker import Speaker
from interact_jax.printable import count
from pocket_model import gates, talk_gates, training

COURSE: dict[str, Any] = {
    "choices": tuple(training.COURSES),
    "default": "hindsight",
    "help": "what the model learns: to use follow-ups, in rows of 112 tokens (`pocket`); or talks "
    "of ten turns with hints and cues, in rows of 512 (`pocket-talks`)",
}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(
        description=__doc__,
        formatter_class=Paragraphs,
        allow_abbrev=False,
    )
    stages = parser.add_subparsers(dest="stage", required=True)

    def stage(name: str, help: str) -> Parser:
        return stages.add_parser(
            name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )

    command = stage("train", "train tokenizer and weights from scratch")
    command.add_argument("--out", type=Path, required=True, help="directory of the run")
    command.add_argument("--steps", type=cli.at_least(1), default=5000)
    command.add_argument(
        "--rows", type=cli.at_least(1), default=32, help="rows per step, as long as the course says"
    )
    command.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    command.add_argument("--seed", type=cli.setting_type("seed"), default=0)
    command.add_argument(
        "--save-every", type=cli.at_least(1), default=250, help="steps between saves"
    )
    command.add_argument("--minutes", type=float, default=math.inf, help="time limit")
    command.add_argument(
        "--start-from", type=Path, help="directory of a run, or of a model, to continue from"
    )
    command.add_argument("--course", **COURSE)

    command = stage("export", "the newest weights of a run as a Hugging Face directory")
    command.add_argument(
        "--run",
        type=Path,
        nargs="+",
        required=True,
        help="directory of the run; of several, the mean of their weights",
    )
    command.add_argument("--out", type=Path, required=True, help="directory to write")

    command = stage("gate", "measure what a model can do")
    command.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    command.add_argument("--out", required=True, help="JSON file to write; - = standard output")
    command.add_argument(
        "--replies", type=cli.at_least(1), default=2048, help="replies to plain requests"
    )
    command.add_argument(
        "--trials",
        type=cli.at_least(1),
        default=256,
        help="trials with hindsight for each style; of talks, for each figure",
    )
    command.add_argument("--seed", type=cli.setting_type("seed"), default=0)
    command.add_argument("--course", **COURSE)

    command = stage("logs", "conversations of simulated users with a model")
    command.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    command.add_argument(
        "--out", required=True, help=".jsonl.gz file to write; - = standard output"
    )
    command.add_argument(
        "--interactions", type=cli.at_least(1), default=4096, help="interactions, at least"
    )
    command.add_argument("--want", nargs="*", default=None, help="styles; default: shipped logs'")
    command.add_argument("--avoid", nargs="*", default=None, help="styles; default: shipped logs'")
    command.add_argument("--seed", type=cli.setting_type("seed"), default=0)

    args = parser.parse_args(argv)
    settings = vars(args)
    make = STAGES[settings.pop("stage")]
    if make in (gate, converse):
        cli.check_output(args.out)
    else:
        places.check_directory(f"--out {args.out}", args.out)
    with cli.reserve_stdout(args.out):
        make(**settings)


def gate(model: Path, out: str, replies: int, trials: int, seed: int, course: str) -> None:
    speaker = Speaker.load(model)
    if course == "talks":
        figures = talk_gates.report(speaker, trials=trials, seed=seed)
    else:
        figures = gates.report(speaker, replies=replies, trials=trials, seed=seed)
    text = json.dumps(figures, indent=2)
    places.write(out, text + "\n")
    print(text)


def converse(
    model: Path,
    out: str,
    interactions: int,
    want: list[str] | None,
    avoid: list[str] | None,
    seed: int,
) -> None:
    preference = measure.LOGGED_PREFERENCE
    if want is not None or avoid is not None:
        preference = dict.fromkeys(want or (), True) | dict.fromkeys(avoid or (), False)
    user = world.User(world.check_preference(preference))
    conversations = logs.converse(Speaker.load(model), user, interactions, seed)
    logs.write_logs(conversations, out)
    interactions = sum(len(list(c.interactions())) for c in conversations)
    said = f"{count(len(conversations), 'conversation')}, {count(interactions, 'interaction')}"
    print(f"{said}: {out}")


STAGES: dict[str, Callable[..., None]] = {
    "train": training.train,
    "export": training.export,
    "gate": gate,
    "logs": converse,
}


if __name__ == "__main__":
    cli.run(main)
