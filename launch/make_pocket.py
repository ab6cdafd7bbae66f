"""Make what the project ships of the pocket world: the model, its figures, the logs.

    python launch/make_pocket.py train --out runs/pocket
    python launch/make_pocket.py export --run runs/pocket --out interact_jax/pocket/model
    python launch/make_pocket.py gate --model interact_jax/pocket/model --out figures.json
    python launch/make_pocket.py logs --model interact_jax/pocket/model \\
        --out interact_jax/pocket/logs.jsonl.gz

Nothing is downloaded. Two CPU cores train the shipped model in about an hour; `export` may be run
on the way.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from interact_jax import ends

    ends.in_words()

import argparse
import json
import math
from pathlib import Path

from interact_jax import cli
from interact_jax.pocket import logs, measure, world
from interact_jax.pocket.speaker import Speaker
from pocket_model import gates, training


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    stages = parser.add_subparsers(dest="stage", required=True)

    def stage(name: str, help: str) -> argparse.ArgumentParser:
        return stages.add_parser(
            name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )

    one = stage("train", "tokenizer and weights, from nothing")
    one.add_argument("--out", type=Path, required=True, help="directory of the run")
    one.add_argument("--steps", type=int, default=5000)
    one.add_argument("--rows", type=int, default=32, help=f"a step has, of {training.ROW} tokens")
    one.add_argument("--lr", type=float, default=3e-3, help="at its peak")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--save-every", type=int, default=250, help="steps")
    one.add_argument("--minutes", type=float, default=math.inf, help="end by then")
    one.add_argument("--start-from", type=Path, help="directory of a run to go on from")

    one = stage("export", "the newest weights of a run as a Hugging Face directory")
    one.add_argument("--run", type=Path, required=True, help="directory of the run")
    one.add_argument("--out", type=Path, required=True, help="directory to write")

    one = stage("gate", "measure what a model can do")
    one.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    one.add_argument("--out", type=Path, required=True, help="JSON file to write")
    one.add_argument("--replies", type=int, default=2048, help="to plain requests")
    one.add_argument("--trials", type=int, default=256, help="with hindsight, for each style")
    one.add_argument("--seed", type=int, default=0)

    one = stage("logs", "conversations of simulated users with a model")
    one.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    one.add_argument("--out", type=Path, required=True, help=".jsonl.gz file to write")
    one.add_argument("--interactions", type=int, default=4096, help="at least so many")
    one.add_argument("--want", nargs="*", default=None, help="styles; default: shipped logs'")
    one.add_argument("--avoid", nargs="*", default=None, help="styles; default: shipped logs'")
    one.add_argument("--seed", type=int, default=0)

    args = parser.parse_args(argv)
    if args.stage == "train":
        settings = vars(args)
        del settings["stage"]
        training.train(settings.pop("out"), **settings)
    elif args.stage == "export":
        training.export(args.run, args.out)
    elif args.stage == "gate":
        speaker = Speaker.load(args.model)
        found = gates.report(speaker, replies=args.replies, trials=args.trials, seed=args.seed)
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=2))
    else:
        preference = measure.LOGGED_PREFERENCE
        if args.want is not None or args.avoid is not None:
            preference = dict.fromkeys(args.want or (), True)
            preference |= dict.fromkeys(args.avoid or (), False)
        user = world.User(world.check_preference(preference))
        conversations = logs.converse(Speaker.load(args.model), user, args.interactions, args.seed)
        logs.write_logs(conversations, args.out)
        count = sum(len(list(c.interactions())) for c in conversations)
        print(f"{len(conversations):,} conversations, {count:,} interactions: {args.out}")


if __name__ == "__main__":
    cli.run(main)
