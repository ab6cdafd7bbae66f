"""One adversarial user among a hundred: the effect of limits on influence, on the pocket world.

    python benchmarks/adversary.py --out runs/adversary
    python benchmarks/adversary.py --out runs/adversary --attack flood --limits inf,4,2

99 users want the styles of the shipped logs; one wants the opposite of each. Attacks:

    flood   as many interactions as all the others together, each in its own conversation
    long    the same number in a few long conversations, in which every turn complains
    loud    a tenth of that; every reply is answered by complaints about two styles at a time
    mute    the flood with next to no weight: as many steps of as few interactions of the others

The others' wanted styles are measured on held-out requests, after training without the adversary
("none", and "twice": two epochs, which are as many steps as one with a flood), and with it under
each limit (`limits.user`, twice as much for `limits.conversation`; inf = off).
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

import argparse
import dataclasses
import json
import logging
from pathlib import Path

from interact_jax import cli, config, evaluation, memory, pocket, train
from interact_jax.arguments import Parser
from interact_jax.pocket import logs, measure, world
from interact_jax.pocket.speaker import Speaker
from interact_jax.schema import Conversation

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.py"
HONEST = 99  # users
OPPOSITE = {style: not on for style, on in measure.LOGGED_PREFERENCE.items()}
ATTACKS = {  # interactions of the adversary over those of all the others; how it talks
    "flood": (1.0, ((1,), (1.0,)), world.User(OPPOSITE, silent=0.0)),
    "long": (1.0, ((8,), (1.0,)), world.User(OPPOSITE, silent=0.0)),
    "mute": (1.0, ((1,), (1.0,)), world.User(OPPOSITE, silent=0.0)),
    "loud": (0.1, ((1,), (1.0,)), world.User(OPPOSITE, two_at_once=1.0, silent=0.0)),
}
WEIGHTS = {"mute": 1e-6}  # of an adversary's replies; 0 would leave them out


def honest_conversations(speaker: Speaker, interactions: int, seed: int) -> list[Conversation]:
    """Conversations of 99 users with the same preference, in turn."""
    talks = logs.converse(speaker, world.User(measure.LOGGED_PREFERENCE), interactions, seed)
    return [dataclasses.replace(c, user=f"u{n % HONEST:02}") for n, c in enumerate(talks)]


def adversarial_conversations(
    speaker: Speaker, attack: str, interactions: int, seed: int
) -> list[Conversation]:
    """Conversations of one user."""
    share, turns, user = ATTACKS[attack]
    talks = logs.converse(speaker, user, int(share * interactions), seed + 1, turns=turns)
    weight = WEIGHTS.get(attack, 1.0)
    for n, talk in enumerate(talks):
        messages = [
            dataclasses.replace(m, weight=weight) if m.role == "assistant" else m
            for m in talk.messages
        ]
        talks[n] = dataclasses.replace(talk, id=f"m{n}", user="mallory", messages=tuple(messages))
    return talks


def run(
    data: Path, workdir: Path, limit: float, replies: int, seed: int, epochs: float
) -> dict[str, float]:
    """Train under this limit; returns the measures of the others' preference."""
    cfg = config.load(str(QUICKSTART)).unlock()
    cfg.data.path, cfg.seed, cfg.epochs = str(data), seed, epochs
    cfg.limits.user, cfg.limits.conversation = limit, 2 * limit
    cfg.evaluation.replies, cfg.evaluation.holdout, cfg.evaluation.name = replies, 0.0, "pocket"
    training = train.start(cfg.lock(), workdir)
    train.loop(training)
    training.checkpoints.close()
    return dict(evaluation.measure_run(training, workdir / "report/after.json") or {})


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--attack", default=",".join(ATTACKS), help="comma-separated")
    parser.add_argument("--limits", default="inf,4", help="comma-separated")
    parser.add_argument(
        "--interactions", type=int, default=2048, help="interactions of the others together"
    )
    parser.add_argument("--replies", type=int, default=2048, help="replies to measure")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    args = parser.parse_args(argv)
    cli.log_to_stderr(logging.ERROR)
    memory.keep_freed()
    cli.keep_compiled()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.jsonl"
    done = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    speaker = Speaker.load(pocket.MODEL)
    for seed in map(int, args.seeds.split(",")):
        others = honest_conversations(speaker, args.interactions, seed)
        for attack in ("none", "twice", *args.attack.split(",")):
            alone = attack not in ATTACKS
            more = (
                [] if alone else adversarial_conversations(speaker, attack, args.interactions, seed)
            )
            data = args.out / f"{attack}{seed}.jsonl.gz"
            logs.write_logs([*others, *more], data)
            for limit in map(float, args.limits.split(",")):
                case = {"attack": attack, "limit": str(limit), "seed": seed}
                if any(case.items() <= line.items() for line in done):
                    continue
                workdir = args.out / f"{attack}{seed}-{limit}"
                epochs = 2.0 if attack == "twice" else 1.0
                line = {**case, **run(data, workdir, limit, args.replies, seed, epochs)}
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(
                    f"{attack:6s} limit {limit:4g}  seed {seed}  wanted styles "
                    f"{line['wanted_styles']:.1%}  correct {line['correct']:.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    cli.run(main)
