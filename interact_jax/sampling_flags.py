"""The flags of programs that sample: one home for their names and meanings."""

from __future__ import annotations

import argparse

from interact_jax import cli
from interact_jax.generation.engine import SamplingParams

SEEDED = "of sampling at other temperatures"


def add_flags(
    parser: argparse.ArgumentParser, *, temperature: float, new_tokens: int, seeded: str = SEEDED
) -> None:
    """Add the flags of `engine.SamplingParams`, and --seed; `seeded` says what that is of."""
    add = parser.add_argument
    add(
        "--max-new-tokens",
        type=int,
        default=new_tokens,
        metavar="N",
        help="tokens of a reply, at most (default %(default)s)",
    )
    add(
        "--temperature",
        type=float,
        default=temperature,
        help="0 takes the likeliest token (default %(default)g)",
    )
    add("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest tokens only")
    add(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="draw from the likeliest tokens that together have the probability P",
    )
    add(
        "--min-p",
        type=float,
        default=0.0,
        metavar="P",
        help="draw from tokens that have P times the probability of the likeliest, at least",
    )
    add(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end a reply where this text appears; may be given several times",
    )
    add(
        "--seed",
        type=cli.setting_type("seed"),
        default=0,
        help=f"{seeded} (default %(default)s)",
    )


def params_of(args: argparse.Namespace) -> SamplingParams:
    """The parsed flags. Raises InputError for a value out of range."""
    params = SamplingParams(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        stop=tuple(args.stop),
    )
    params.check()
    return params
