"""Score logged replies: the log-probability of every token, without and with hindsight.

    python launch/score.py --model pocket --data logs.jsonl --out scores.jsonl --report report/
    python launch/score.py --model Qwen/Qwen3-0.6B --data logs.jsonl --out scores.jsonl --show 3

Writes one line per interaction: id, completion_ids (y and EOS), logp_student, logp_teacher.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from interact_jax import cli, memory, places, report, sharding
from interact_jax.arguments import Parser
from interact_jax.data.chat import ChatFormat, check_date
from interact_jax.data.dataset import Dataset, load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.records import find_files
from interact_jax.data.tree import picture
from interact_jax.help_text import Help
from interact_jax.hindsight_check import check_hindsight
from interact_jax.opening import DTYPES, open_model
from interact_jax.printable import count, printable
from interact_jax.signal import Scored, interactions_by_id, score_trees

MAX_LENGTH = 4096  # tokens of a conversation, limited by the model's positions
CHECKED = 512  # pairs that --check-hindsight looks at, at most
COUNT = cli.at_least(0)
SETTINGS = {
    "model.tokenizer": "--tokenizer",
    "hindsight": "--hindsight",
    "data.format": "--format",
    "data.on_error": "--on-error",
    "data.repair": "--repair",
    "data.copies": "--copies",
    "data.mapping": "--mapping",
    "data.max_bytes": "--max-bytes",
    "data.special_tokens": "--special-tokens",
    "data.thinking": "--thinking",
    "data.date": "--date",
    "data.end": "--end",
    "data.history": "--history",
    "data.reply_tokens": "--reply-tokens",
    "data.max_reply": "--max-reply",
    "sharing": "--sharing",
    "attention": "--attention",
    "batch.row_tokens": "--row-tokens",
    "mesh.fsdp": "--mesh-fsdp",
    "mesh.tensor": "--mesh-tensor",
}
"""Settings of a run that are arguments here, with their own meaning, choices and bounds."""
OWN_SETTINGS = {
    "model.path": "--model",
    "model.dtype": "--dtype",
    "data.path": "--data",
    "data.max_length": "--max-length",
}
"""Settings of a run that are arguments here with another meaning of 0, or another default."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=Help,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="Hugging Face directory, hub id, a run, or pocket")
    add("--data", required=True, help="conversations: file, glob, directory; - = standard input")
    add("--out", required=True, help="JSON Lines file to write; - = standard output")
    add("--report", default="", metavar="DIR", help="write HTML and pictures there")
    add(
        "--show",
        type=COUNT,
        default=0,
        metavar="N",
        help="print the N replies with the strongest signal",
    )
    add("--show-trees", type=COUNT, default=0, metavar="N", help="print the first N token trees")
    add(
        "--check-hindsight",
        action="store_true",
        help="check that the model uses hindsight, by replies that came after a follow-up",
    )
    add(
        "--max-length",
        type=COUNT,
        default=0,
        help="tokens of a conversation before its window moves on; 0 = as many as fit, up to 4096",
    )
    add("--dtype", default="float32", choices=DTYPES, help="type of the computation")
    cli.add_settings(parser, SETTINGS, {"batch.row_tokens": 1024})
    cli.name_flags(SETTINGS | OWN_SETTINGS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_date(args.date, "--date")
    cli.log_to_stderr(logging.INFO)
    memory.keep_freed()
    cli.keep_compiled()
    read = [] if args.data == "pocket" else find_files(args.data)
    cli.check_output(args.out, *read)
    if args.report:
        places.check_directory(f"--report {args.report}", args.report)
    with cli.reserve_stdout(args.out):
        score(args)


def score(args: argparse.Namespace) -> None:
    model = open_model(
        args.model,
        mesh=sharding.make_mesh(fsdp=args.mesh_fsdp, tensor=args.mesh_tensor),
        tokenizer=args.tokenizer,
        hindsight=args.hindsight,
        reply_tokens=args.reply_tokens,
        thinking=args.thinking,
        date=args.date,
        end=args.end,
        max_length=args.max_length or 1,
        dtype=args.dtype,
        attention=args.attention,
    )
    chat = model.chat
    settings = EncodeSettings(
        history=args.history,
        max_length=args.max_length or min(MAX_LENGTH, model.config.max_positions),
        max_reply=args.max_reply,
        special_tokens=args.special_tokens,
        on_error=args.on_error,
        repair=args.repair,
        copies=args.copies,
        mapping=args.mapping,
        max_bytes=args.max_bytes,
    )
    dataset = load_dataset(args.data, args.format, chat, settings, args.sharing)
    cli.show(*map(cli.replace_settings, dataset.lines()))
    trees = [tree for trees in dataset.trees for tree in trees]
    for tree in trees[: args.show_trees]:
        cli.show(picture(tree, chat.decode), "")

    params = model.load()
    scored = score_trees(
        model.decoder,
        params,
        trees,
        model.mesh,
        sharing=args.sharing,
        row_tokens=args.row_tokens,
    )
    cli.write_lines(args.out, map(line_of, scored))
    if args.check_hindsight:
        check = check_hindsight(
            model.decoder,
            params,
            dataset.conversations,
            chat,
            settings,
            model.mesh,
            most=CHECKED,
            sharing=args.sharing,
            row_tokens=args.row_tokens,
        )
        cli.show(*check.lines())
    show(args, scored, dataset, chat)
    cli.show(f"{count(len(scored), 'interaction')} scored: {args.out}")


def line_of(scored: Scored) -> dict[str, Any]:
    return {
        "id": scored.id,
        "completion_ids": scored.y.tolist(),
        "logp_student": [round(float(v), 7) for v in scored.logp_student],
        "logp_teacher": [round(float(v), 7) for v in scored.logp_teacher],
    }


def show(
    args: argparse.Namespace, scored: list[Scored], dataset: Dataset, chat: ChatFormat
) -> None:
    interactions = interactions_by_id(dataset)
    strongest = sorted(scored, key=lambda s: -abs(s.signal).mean())
    for reply in strongest[: args.show]:
        Console().print(report.token_table(reply, interactions[reply.id], chat))
    if args.report:
        title = printable(f"The signal of {args.model} on {places.input_name(args.data)}")
        page = report.write_signal_report(
            Path(args.report), scored, interactions, chat, title=title
        )
        cli.show(f"report: {page}")


if __name__ == "__main__":
    cli.run(main, "What makes it smaller: --row-tokens, --mesh-fsdp, --dtype bfloat16.")
