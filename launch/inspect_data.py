"""Look at conversations before training: a page to search, with roles, replies and token trees.

    python launch/inspect_data.py --data logs.jsonl --tokenizer pocket --out page.html
    python launch/inspect_data.py --data data/shop/1.0.0 --split test --sample 50 --out page.html

One HTML file, which loads nothing from elsewhere: a sample of the conversations, which replies are
learned from and what follows them, the token tree of each, and what was lost, cut or mended and
why. Of prepared data it also shows what each filter removed, the splits and the lengths. Without
--tokenizer there are no trees. Texts of the logs are in the page.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import logging
from pathlib import Path

from interact_jax import cli, progress
from interact_jax.arguments import Parser
from interact_jax.data.chat import ChatFormat, check_date
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.prepared import is_prepared
from interact_jax.data.records import find_files
from interact_jax.data.tokenise import Tokeniser
from interact_jax.help_text import Help
from interact_jax.models import hf
from interact_jax.places import input_name
from interact_jax.printable import count, printable
from interact_jax.report.inspect_page import Shown, write_inspect_page
from interact_jax.report.inspection import Inspection, Reading, inspect_data

SETTINGS = {
    "hindsight": "--hindsight",
    "data.format": "--format",
    "data.repair": "--repair",
    "data.max_bytes": "--max-bytes",
    "data.mapping": "--mapping",
    "data.special_tokens": "--special-tokens",
    "data.thinking": "--thinking",
    "data.date": "--date",
    "data.end": "--end",
    "data.history": "--history",
    "data.reply_tokens": "--reply-tokens",
    "data.max_length": "--max-length",
    "data.max_reply": "--max-reply",
}
"""Settings of a run that are arguments here, with their own meaning, choices and bounds."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = parser.add_argument
    add("--data", required=True, help="file, glob, directory, prepared data, or pocket")
    add("--out", required=True, metavar="FILE", help="the HTML file to write; - = standard output")
    add(
        "--tokenizer",
        default="",
        metavar="NAME",
        help="shows token trees: a Hugging Face directory, hub id, a run, or pocket",
    )
    add("--sample", type=cli.at_least(1), default=200, metavar="N", help="conversations to show")
    add("--seed", type=cli.at_least(0), default=0, metavar="N", help="of the sample")
    add("--split", default="", metavar="NAME", help="of prepared data; without it, train")
    cli.add_settings(parser, SETTINGS)
    cli.name_flags(SETTINGS | {"data.path": "--data", "model.tokenizer": "--tokenizer"})
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_date(args.date, "--date")
    cli.log_to_stderr(logging.INFO)
    read = [] if args.data == "pocket" or is_prepared(args.data) else find_files(args.data)
    cli.check_output(args.out, *read)
    with cli.reserve_stdout(args.out):
        inspect(args)


def inspect(args: argparse.Namespace) -> None:
    tokeniser = open_tokeniser(args) if args.tokenizer else None
    with progress.of(f"reading {input_name(args.data)}"):
        found = inspect_data(
            args.data,
            Reading(args.format, args.repair, args.max_bytes, args.mapping),
            sample=args.sample,
            seed=args.seed,
            tokeniser=tokeniser,
            split=args.split,
        )
    shown = Shown(
        title=printable(f"Conversations of {input_name(args.data)}"),
        chat=tokeniser.chat if tokeniser else None,
        tokenizer=args.tokenizer,
        max_reply=args.max_reply,
        seed=args.seed,
    )
    page = write_inspect_page(Path(args.out), found, shown)
    cli.show(*lines(found, with_trees=tokeniser is not None), f"page: {page}")


def open_tokeniser(args: argparse.Namespace) -> Tokeniser:
    """How conversations become trees. Raises InputError."""
    files = hf.resolve(args.tokenizer, weights=False)
    chat = ChatFormat.load(
        files,
        args.hindsight,
        args.reply_tokens,
        thinking=args.thinking,
        date=args.date,
        end=args.end,
        stops=hf.eos_token_ids(files),
    )
    settings = EncodeSettings(
        history=args.history,
        max_length=args.max_length,
        max_reply=args.max_reply,
        special_tokens=args.special_tokens,
        on_error="skip",
        repair=args.repair,
        max_bytes=args.max_bytes,
    )
    return Tokeniser(chat, settings, sharing="tree")


def lines(found: Inspection, with_trees: bool) -> list[str]:
    """What was read, in a few lines; the page has the rest."""
    trees = [tree for entry in found.entries for tree in entry.trees or ()]
    told = f", {count(len(trees), 'tree')}" if with_trees else "; no token trees, no --tokenizer"
    return [
        f"{len(found.entries):,} of {count(found.total, 'conversation')} shown{told}",
        *(f"  {each.kind} {each.times:,} x {each.reason}" for each in found.findings),
    ]


if __name__ == "__main__":
    cli.run(main, "What makes it smaller: --sample.")
