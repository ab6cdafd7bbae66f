"""ALOE: personas, conversations with them, and how well a model learns to know somebody.

    python launch/aloe.py personas --model openai:gpt-4.1-mini --out personas
    python launch/aloe.py converse --model openai:gpt-4.1-mini --responder-model runs/mine \\
        --personas personas/personas.jsonl --out conversations
    python launch/aloe.py converse --model openai:Qwen/Qwen3-8B@http://127.0.0.1:8000/v1 \\
        --pairs judged --conversations 64 --out conversations
    python launch/aloe.py evaluate --model mine-hf Qwen/Qwen3-4B --out evaluation \\
        --user-model openai:gpt-4.1-mini
    python launch/aloe.py evaluate --model pocket-talks --world pocket --out evaluation

Every answer of a model is kept in OUT/calls.sqlite as it arrives. Started again with the same
--out, a program goes on where it was and asks for nothing twice.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interact_jax import cli, lock, places
from interact_jax.aloe import (
    converse,
    encoders,
    evaluate_command,
    flags,
    growing,
    personas,
    roles,
    rounds,
)
from interact_jax.aloe.personas import Personas
from interact_jax.arguments import Parser
from interact_jax.help_text import Help, Paragraphs
from interact_jax.printable import count
from interact_jax.schema import InputError


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Paragraphs, allow_abbrev=False)
    kinds = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, add_arguments, _) in COMMANDS.items():
        add_arguments(
            kinds.add_parser(name, help=summary, formatter_class=Help, allow_abbrev=False)
        )
    cli.name_flags({"model.path": "--model", "model.dtype": "--dtype", "data.date": "--date"})
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    cli.log_to_stderr(logging.INFO)
    places.check_directory(f"--out {args.out}", args.out)
    with lock.hold(Path(args.out)):
        COMMANDS[args.command][2](args)


# ------------------------------------------------------------------------------------ personas


def add_persona_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, metavar="MODEL", help=f"invents people: {flags.SPEC}")
    add("--out", required=True, metavar="DIR", help="directory of the pools")
    number: Any = {"type": cli.at_least(1), "metavar": "N"}
    add("--profiles", **number, default=331, help="grow so many")
    add("--personalities", **number, default=71, help="grow so many")
    add("--personas", **number, default=3310, help="write so many pairs of the two")
    add("--seed-profiles", default="", metavar="FILE", help="grow from these, not from ours")
    add("--seed-personalities", default="", metavar="FILE", help="grow from these, not from ours")
    add(
        "--encoder",
        default="minilm",
        metavar="NAME",
        help="what compares texts: minilm (needs the extra `personas`), hashing, or the directory"
        " of a model of sentence-transformers",
    )
    names = ("similarity", "examples", "asked")
    cli.add_settings(parser, {name: f"--{name}" for name in names}, table=growing.SETTINGS)
    table = {"temperature": roles.SETTINGS["temperature"]}
    cli.add_settings(parser, {"temperature": "--temperature"}, table=table)
    add("--seed", type=cli.setting_type("seed"), default=0, help="of everything that is drawn")
    flags.add_opening_flags(parser)


def make_personas(args: argparse.Namespace) -> None:
    out = Path(args.out)
    most = args.profiles * args.personalities
    if args.personas > most:
        raise InputError(
            f"--personas {args.personas}: {count(args.profiles, 'profile')} and "
            f"{args.personalities:,} personalities make {most:,}."
        )
    seeds = {
        kind: personas.read_pool(path) if path else personas.shipped(kind)
        for kind, path in {
            growing.PROFILES.name: args.seed_profiles,
            growing.PERSONALITIES.name: args.seed_personalities,
        }.items()
    }
    encoder = encoders.open_encoder(args.encoder)
    pools, found = {}, dict[str, Any]()
    with flags.open_models(args, out) as opener:
        model = opener.open(args.model)
        for name, own in seeds.items():
            grown = growing.grow(
                model,
                encoder,
                growing.KINDS[name],
                own,
                getattr(args, name),
                args.seed,
                examples=args.examples,
                asked=args.asked,
                similarity=args.similarity,
                params=dataclasses.replace(growing.SAMPLING, temperature=args.temperature),
            )
            pools[name] = grown.pool
            found[name] = {"pool": len(grown.pool), "calls": grown.calls, **grown.counts}
            lines = (json.dumps(text, ensure_ascii=False) + "\n" for text in grown.pool)
            places.write(out / f"{name}.jsonl", "".join(lines))
        counts = opener.counts()
    people = Personas.product(pools["profiles"], pools["personalities"], args.seed)
    if args.personas > len(people):
        raise InputError(f"--personas {args.personas}: the pools make {len(people):,}.")
    chosen = map(people, range(args.personas))
    cli.write_lines(
        out / "personas.jsonl",
        ({"profile": each.profile, "personality": each.personality} for each in chosen),
    )
    found |= {"personas": args.personas, "encoder": encoder.name, "model": args.model}
    places.write(out / "summary.json", json.dumps(found, indent=2) + "\n")
    for name in pools:
        counted = ", ".join(f"{what}: {number}" for what, number in found[name].items())
        cli.show(f"{name}: {counted}")
    cli.show(*counts, f"{count(args.personas, 'persona')}: {out / 'personas.jsonl'}")


# ------------------------------------------------------------------------------------ converse


def add_converse_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="directory of the conversations")
    add("--personas", default="", metavar="FILE", help="as `personas` writes them")
    add("--profiles", default="", metavar="FILE", help="a pool; by default ours")
    add("--personalities", default="", metavar="FILE", help="a pool; by default ours")
    number: Any = {"type": cli.at_least(1), "metavar": "N"}
    add("--conversations", **number, default=3000, help="play so many")
    add(
        "--pairs",
        default=rounds.PAPER,
        choices=rounds.WAYS,
        help="which reply is preferred: the one with the hint, or the one that the judge prefers",
    )
    table = converse.SETTINGS
    cli.add_settings(parser, {name: f"--{name}" for name in table}, table=table)
    flags.add_cast_flags(parser)


def make_conversations(args: argparse.Namespace) -> None:
    out = Path(args.out)
    people = open_people(args)
    plan = converse.Plan(args.conversations, args.rounds, args.pairs, args.seed, args.portion)
    with flags.open_cast(args, out) as (cast, opener):
        found = converse.converse(cast, people, people.about, plan, out)
        counts = opener.counts()
    cli.show(*converse.lines_of(found), *counts, f"conversations: {out / converse.DONE}")


def open_people(args: argparse.Namespace) -> Personas:
    if args.personas and (args.profiles or args.personalities):
        raise InputError("--personas has both; leave out --profiles and --personalities.")
    if args.personas:
        return Personas.listed(personas.read_personas(args.personas), args.seed)
    pools = {
        name: personas.read_pool(path) if path else personas.shipped(name)
        for name, path in {
            "profiles": args.profiles,
            "personalities": args.personalities,
        }.items()
    }
    return Personas.product(pools["profiles"], pools["personalities"], args.seed)


Command = tuple[str, Callable[[Parser], None], Callable[[Any], None]]
COMMANDS: dict[str, Command] = {
    "personas": ("grow pools of people", add_persona_flags, make_personas),
    "converse": ("let them talk: pairs of replies", add_converse_flags, make_conversations),
    "evaluate": (
        "how well a model learns whom it talks with",
        evaluate_command.add_arguments,
        evaluate_command.main,
    ),
}

if __name__ == "__main__":
    cli.run(main, "What makes it smaller: --rows, --portion, --max-new-tokens, --dtype bfloat16.")
