"""Prepare large logs: filter them once, and write shards that are read at any place.

    python launch/prepare_data.py --data 'logs/*.jsonl.gz' --out data --dry-run
    python launch/prepare_data.py --data logs/ --out data --license CC0-1.0 --tokenizer pocket

Any format of logs is read, part by part, in several processes, in little memory. A run that was
stopped goes on where it was, to the same bytes. DIR/README.md says what was kept and what was not;
tensorflow_datasets reads the shards without TensorFlow. With --config, the token trees of runs with
these settings are made, too: `--config configs/quickstart.py --config.data.max_length=512`.

Machines that share a file system divide the work: each gets --process-index 0, 1, ... of
--process-count, and with --wait they wait for one another.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from interact_jax import cli, config, places
from interact_jax.arguments import SETTING, Parser
from interact_jax.data import shares
from interact_jax.data.columns import load_columns
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.tokenise import Tokeniser
from interact_jax.help_text import Help
from interact_jax.methods import method_of
from interact_jax.models import hf
from interact_jax.opening import chat_for
from interact_jax.prepare import pipeline, trial
from interact_jax.prepare.describing import About
from interact_jax.prepare.filters import FILTERS, parse_filter
from interact_jax.prepare.job import SAMPLES, Settings
from interact_jax.prepare.parts import PART_BYTES
from interact_jax.prepare.pipeline import Left, Share
from interact_jax.prepare.readme import summary
from interact_jax.prepare.splits import DEFAULT, NAME, format_splits, parse_splits
from interact_jax.prepare.trees import make_trees
from interact_jax.printable import count
from interact_jax.schema import InputError

COUNT = cli.at_least(0)
POSITIVE = cli.at_least(1)
SETTINGS = {
    "data.format": "--format",
    "data.on_error": "--on-error",
    "data.repair": "--repair",
    "data.max_bytes": "--max-bytes",
    "data.mapping": "--mapping",
}
"""Settings of a run that are arguments here, with their own meaning, choices and bounds."""


class PrepareParser(Parser):
    """Lets settings of runs through."""

    def lets_through(self, argument: str) -> bool:
        return argument.startswith(SETTING) and "=" in argument


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The named arguments, and the --config.KEY=VALUE ones unparsed."""
    parser = PrepareParser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = parser.add_argument
    add("--data", required=True, help="conversations: file, glob or directory")
    add("--out", required=True, metavar="DIR", help="directory of the prepared data")
    add("--name", default="conversations", help="name of the data set, as TFDS has it")
    add(
        "--filter",
        action="append",
        default=[],
        metavar="SPEC",
        help="a filter, NAME or NAME:SETTING=VALUE,...; give as many as you like, in order; names "
        f"are {', '.join(FILTERS)}, settings stand in docs/filters.md",
    )
    shares = format_splits(DEFAULT)
    add("--splits", default=shares, metavar="NAME=SHARE,...", help="by a hash of the user")
    add("--tokenizer", default="", metavar="NAME", help="count tokens: a model's name, or pocket")
    add(
        "--config",
        default="",
        metavar="FILE",
        help="of runs, with --config.KEY=VALUE: then make the token trees that they need, into "
        "DIR/trees, where they find them; a run over several processes needs all of them",
    )
    add("--license", default="", metavar="NAME", help="of the logs, for the card")
    add("--source", default="", metavar="TEXT", help="where they are from, for the card")
    add(
        "--samples",
        type=COUNT,
        default=SAMPLES,
        metavar="N",
        help="dropped conversations that the card shows for each reason; 0 shows none",
    )
    add("--dry-run", action="store_true", help="show what would be dropped; write nothing")
    add(
        "--limit",
        type=COUNT,
        default=0,
        metavar="N",
        help="with --dry-run: N of each part; 0 = all",
    )
    add(
        "--part-bytes",
        type=POSITIVE,
        default=PART_BYTES,
        metavar="N",
        help="about how much of a file is a part and becomes a shard",
    )
    add("--processes", type=COUNT, default=0, metavar="N", help="0 = one for each core")
    add("--process-index", type=COUNT, default=0, metavar="I", help="which machine this is, from 0")
    add("--process-count", type=POSITIVE, default=1, metavar="N", help="of how many machines")
    add(
        "--wait",
        type=cli.at_least(0, float),
        default=0.0,
        metavar="MINUTES",
        help="for the other machines; without it, the last one to come does what is left",
    )
    add("--finish", action="store_true", help="do all that other machines have left")
    cli.add_settings(parser, SETTINGS)
    cli.name_flags(SETTINGS | {"data.path": "--data"})
    args, overrides = parser.parse_known_args(argv)
    if overrides and not args.config:
        parser.error(f"{overrides[0]}: is a setting of runs, and needs --config, their file")
    return args, overrides


def main(argv: list[str] | None = None) -> None:
    args, overrides = parse(argv)
    check(args)
    cli.log_to_stderr(logging.INFO)
    # What is wrong with it is said before anything is read.
    own = [*overrides, f"--config.data.path={args.out}"]
    cfg = config.load(args.config, own) if args.config else None
    filters = [parse_filter(text) for text in args.filter]
    load_columns(args.mapping)
    tokenizer = str(hf.resolve(args.tokenizer, weights=False)) if args.tokenizer else ""
    settings = Settings(
        data=args.data,
        name=args.name,
        format=args.format,
        on_error=args.on_error,
        repair=args.repair,
        max_bytes=args.max_bytes,
        mapping=args.mapping,
        filters=tuple(args.filter),
        splits=parse_splits(args.splits),
        part_bytes=args.part_bytes,
        tokenizer=args.tokenizer,
        samples=args.samples,
    )
    processes = args.processes or os.cpu_count() or 1
    if args.dry_run:
        cli.show(*trial.dry_run(settings, filters, processes, args.limit or None))
        return
    places.check_directory(f"--out {args.out}", args.out)
    done = pipeline.prepare(
        settings,
        filters,
        Path(args.out),
        about=About(args.source, args.license),
        tokenizer=tokenizer,
        processes=processes,
        share=Share(args.process_index, args.process_count, 60 * args.wait, args.finish),
    )
    if isinstance(done, Left):
        cli.show(*left_lines(done))
    else:
        cli.show(*summary(done, args.out))
        if cfg is not None:
            # Without --wait, this machine is the last one, and alone.
            own_share = shares.Share(args.process_index, args.process_count) if args.wait else None
            workers = processes if processes > 1 else 0
            cli.show(*make_trees(tokeniser_of(cfg), Path(args.out), workers, own_share))


def tokeniser_of(cfg: Any) -> Tokeniser:
    """How a run with these settings makes trees."""
    recipe = method_of(cfg).recipe
    return Tokeniser(chat_for(cfg), EncodeSettings.of(cfg), cfg.sharing, recipe)


def check(args: argparse.Namespace) -> None:
    """What one argument alone does not show. Raises InputError."""
    if not NAME.fullmatch(args.name):
        raise InputError(
            f"--name {args.name}: expected small letters, digits and _, beginning with a letter."
        )
    if args.process_index >= args.process_count:
        raise InputError(
            f"--process-index {args.process_index}: expected a number below --process-count "
            f"{args.process_count}; the first machine is 0."
        )
    if args.limit and not args.dry_run:
        raise InputError(f"--limit {args.limit}: only with --dry-run; otherwise all is read.")


def left_lines(left: Left) -> list[str]:
    """What is left for other machines."""
    if left.read:
        return [
            f"this share is read; {count(len(left.read), 'part')} of other machines are not yet.",
            "Once they are, start any machine's command again, or one with --finish.",
        ]
    return [
        f"this share is written; {count(len(left.written), 'part')} of other machines are not yet.",
        "The last machine describes the data; or start one of the commands with --finish.",
    ]


if __name__ == "__main__":
    cli.run(main, "What makes it smaller: --processes, --part-bytes.")
