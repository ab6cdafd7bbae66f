"""Time training steps: one pass per conversation (tree) against two forwards (none), in one run.

    python launch/bench.py
    python launch/bench.py --turns 8 --student-branches --repeats 9 --json bench.json
    python launch/bench.py --model pocket --data pocket --conversations 32 --steps 4
    python launch/bench.py --model-shape qwen3-1.7b --dtype bfloat16 --turns 4,8
    python launch/bench.py --model-shape qwen3-8b --repeats 0

Without --data the conversations are synthetic, one per row; with it real ones, packed as in
training. What is then timed as one is a whole epoch of all conversations, which can take minutes,
or the first --steps of it. Both ways use the same attention, scorer, optimiser and
rematerialisation, and alternate, so that their ratio holds on a noisy machine. --repeats 0 runs
nothing: it gives temporaries, FLOPs and bound, also for models too large for this machine.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from interact_jax import bench, chips, cli, config, memory, places, progress, sharding
from interact_jax.arguments import Parser
from interact_jax.data.chat import ChatFormat
from interact_jax.data.dataset import load_dataset
from interact_jax.data.draws import Draws
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.first_steps import packing_for
from interact_jax.help_text import Help
from interact_jax.methods import method_of
from interact_jax.models import hf
from interact_jax.models.attention import BACKENDS, backend_for
from interact_jax.models.decoder import REMAT_POLICIES, Decoder, precision_of
from interact_jax.models.families import read_config
from interact_jax.models.shapes import SHAPES, shape
from interact_jax.objectives import OBJECTIVES
from interact_jax.printable import count
from interact_jax.schema import Batch, InputError
from interact_jax.teachers import TEACHERS

log = logging.getLogger("interact_jax.launch.bench")

COLUMNS = (
    *("case", "sharing", "step\ns", "interac-\ntions/s", "tokens\n/s", "padding", "temp\nMB"),
    *("work\nGFLOP", "speed\nGFLOP/s", "MFU", "faster", "bound", "FLOPs\nshare"),
)
WIDE = 120  # columns of a terminal in which all of these fit
TIMES = (*COLUMNS[:6], "faster", "bound")  # else in two tables
WORK = (*COLUMNS[:2], *(name for name in COLUMNS if name not in TIMES))
FLAGS = {
    "batch.row_tokens": "--row-tokens",
    "data.format": "--format",
    "data.max_length": "--max-length",
    "data.path": "--data",
    "mesh.fsdp": "--mesh-fsdp",
    "model.path": "--model",
    "model.tokenizer": "--tokenizer",
    "objective.name": "--objective",
    "teacher.name": "--teacher",
}
"""Settings of a run that are arguments here, for messages that name those."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = parser.add_argument
    add("--model-shape", default="small", choices=list(SHAPES), help="sizes, random parameters")
    add("--model", default="", help="or the sizes of a Hugging Face directory, hub id, or pocket")
    add(
        "--vocabulary",
        type=cli.at_least(0),
        default=0,
        help="size of the vocabulary; 0 = the model's",
    )
    add(
        "--turns",
        type=_check_turns,
        default="1,2,4,8",
        help="interactions of a conversation, comma-separated",
    )
    add(
        "--user-tokens",
        type=cli.at_least(bench.OPENING + 1),
        default=64,
        help="tokens of a user's turn, including the end of the prompt",
    )
    add(
        "--reply-tokens", type=cli.at_least(1), default=192, help="tokens of a reply, including EOS"
    )
    add(
        "--followup-tokens",
        type=cli.at_least(0),
        default=32,
        help="tokens that the hindsight prompt adds",
    )
    add("--student-branches", action="store_true", help="replies look different in the history")
    add("--data", default="", help="file of conversations to pack instead, - or pocket")
    add("--format", default="auto", help="format of the data")
    add("--tokenizer", default="", help="directory of a tokenizer for --data; empty = the model's")
    add(
        "--conversations",
        type=cli.at_least(1),
        default=32,
        help="conversations from --data per step",
    )
    add(
        "--steps",
        type=cli.at_least(0),
        default=0,
        metavar="N",
        help="time the first N steps of --data's epoch; 0 = the whole epoch, which can take long",
    )
    add(
        "--row-tokens",
        type=cli.setting_type("batch.row_tokens"),
        default=4096,
        help="trunk length of a row packed from --data",
    )
    add(
        "--max-length",
        type=cli.setting_type("data.max_length"),
        default=4096,
        help="tokens of a conversation from --data",
    )
    add("--sharing", default="tree,none", help="ways to compare, comma-separated")
    add("--attention", default="auto", choices=["auto", *BACKENDS], help="backend of attention")
    add(
        "--remat",
        default="full",
        choices=list(REMAT_POLICIES),
        help="what is recomputed in the backward pass",
    )
    add(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16"],
        help="type of the computation",
    )
    add(
        "--repeats",
        type=cli.at_least(0),
        default=5,
        help="timed steps of each way, at least; 0 = compile only",
    )
    add(
        "--seconds",
        type=cli.at_least(0, float),
        default=15,
        help="time per case, at least",
    )
    add(
        "--mesh-fsdp",
        type=cli.at_least(1),
        default=1,
        help="devices that the parameters are sharded over",
    )
    add("--objective", default="sdpo", choices=list(OBJECTIVES), help="what is minimised")
    add("--teacher", default="self", choices=list(TEACHERS), help="whose weights see the hindsight")
    add("--json", default="", metavar="FILE", help="write all figures there; - = standard output")
    cli.name_flags(FLAGS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    cli.log_to_stderr(logging.INFO)
    memory.keep_freed()
    cli.keep_compiled()
    if args.json:
        cli.check_output(args.json, option="--json")
    with cli.reserve_stdout(args.json):
        time_steps(args)


def time_steps(args: argparse.Namespace) -> None:
    ways = args.sharing.split(",")
    if unknown := set(ways) - set(bench.WAYS):
        raise InputError(f"--sharing {','.join(unknown)}: there is {', '.join(bench.WAYS)}.")
    if args.steps and not args.data:
        raise InputError(f"--steps {args.steps}: these are steps of an epoch of --data. Give both.")
    jax.config.update("jax_default_matmul_precision", precision_of(args.dtype))
    mesh = sharding.make_mesh(fsdp=args.mesh_fsdp)
    cfg = config.default()
    cfg.objective.name, cfg.teacher.name = args.objective, args.teacher
    attention = backend_for(args.attention, mesh)
    decoder = Decoder(
        _model(args),
        dtype=jnp.dtype(args.dtype),
        remat=args.remat,
        attention=attention,
    )
    chip = chips.chip_of(jax.devices()[0].device_kind)
    peak = chip.flops * jax.device_count() if chip else None
    print(
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}, "
        f"{args.dtype}, attention={attention}, remat={args.remat}"
    )
    results = []
    rows = []
    for name, micro_of in cases(args, ways, sharding.row_shards(mesh), cfg):
        micro = {way: micro_of(way) for way in ways}
        runs = args.repeats > 0
        with progress.of(f"{name}: compiling"):
            steps = {w: bench.make_step(decoder, micro[w], w, mesh, runs, cfg) for w in ways}
        if runs:
            log.info("%s: %s", name, describe_timing(args, ways))
            bench.interleave(
                list(steps.values()), args.repeats, args.seconds, rounds_reporter(name)
            )
        for way, step in steps.items():
            figures = step.figures(peak)
            if way == "tree" and "none" in steps:
                none = steps["none"]
                figures["faster"] = bench.ratio(step, none) if runs else None
                figures["bound"] = none.passes / step.passes
                figures["flops_share"] = step.flops / none.flops
            results.append({"case": name, **figures})
            rows.append([name, *_row(figures)])
    print_tables(Console(), rows)
    if args.json:
        machine = {"devices": jax.device_count(), "kind": jax.devices()[0].device_kind}
        settings = {**vars(args), "attention": attention}
        report = {"jax": jax.__version__, **machine, "settings": settings, "results": results}
        places.write(args.json, json.dumps(report, indent=2) + "\n")
        print(f"figures: {args.json}")


def describe_timing(args: argparse.Namespace, ways: Sequence[str]) -> str:
    """What is going to be timed, as text."""
    each = "the whole epoch" if args.data and not args.steps else count(args.steps or 1, "step")
    return (
        f"timing {count(args.repeats, 'round')} after one to warm up, and at least "
        f"{args.seconds:g} s; each is {each} {', then '.join(f'by {way}' for way in ways)}"
    )


def rounds_reporter(name: str) -> Callable[[int], None]:
    """Logs how many rounds are complete, at most every few seconds: a line that moves would disturb
    what is timed."""
    said = began = time.monotonic()

    def report(rounds: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= progress.FIRST:
            said = now
            complete = f"{count(rounds, 'round')} timed" if rounds else "warming up"
            log.info("%s: %s, %.0f s so far", name, complete, now - began)

    return report


def print_tables(console: Console, rows: Sequence[Sequence[str]]) -> None:
    """Print rows under COLUMNS: in one table, or in two on a terminal that is too narrow for it."""
    wide = not console.is_terminal or console.width >= WIDE
    if wide:
        console.width = max(WIDE, console.width)
    for columns in [COLUMNS] if wide else [TIMES, WORK]:
        table = Table(box=None, pad_edge=False)
        for column in columns:
            left = column in COLUMNS[:2]
            table.add_column(column, justify="left" if left else "right", no_wrap=True)
        for row in rows:
            cells = dict(zip(COLUMNS, row, strict=True))
            table.add_row(*(cells[column] for column in columns))
        console.print(table)
        if not wide:
            console.print()


def _check_turns(text: str) -> str:
    """Check comma-separated numbers; the text is returned unchanged."""
    try:
        for number in text.split(","):
            cli.at_least(1)(number)
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{text}: expected numbers of at least 1 with commas between, such as 1,2,4,8"
        ) from None
    return text


def _model(args: argparse.Namespace) -> Any:
    vocabulary = {"vocab_size": args.vocabulary} if args.vocabulary else {}
    if not args.model:
        return shape(args.model_shape, **vocabulary)
    raw, _ = hf.load_config(hf.resolve(args.model, weights=False), weights=False)
    return read_config(raw | vocabulary, args.model)


def cases(
    args: argparse.Namespace, ways: list[str], height: int, cfg: ConfigDict
) -> Iterator[tuple[str, Any]]:
    """(name, function from a way to its micro-batches) of every case to be timed."""
    if args.data:
        by_way = _epoch(args, ways, height, cfg)
        part = count(args.steps, "step") if args.steps else "epoch"
        yield f"{part} at {args.conversations}", lambda way: by_way[way]
        return
    vocabulary, method = _model(args).vocab_size, method_of(cfg)
    for turns in map(int, args.turns.split(",")):
        dialogue = bench.Dialogue(
            turns,
            args.user_tokens,
            args.reply_tokens,
            args.followup_tokens,
            args.student_branches,
            method.recipe,
        )
        name = f"{turns} turns" if turns > 1 else "1 turn"

        def micro_of(way: str, dialogue: bench.Dialogue = dialogue) -> list[Batch]:
            trees = dialogue.trees(way, np.random.default_rng(0), vocabulary)
            return [bench.one_row(trees, height, method.known)]

        yield name, micro_of


def _epoch(
    args: argparse.Namespace, ways: list[str], height: int, cfg: ConfigDict
) -> dict[str, list[Batch]]:
    """The micro-batches of one epoch, or of its first steps, in each way."""
    directory = args.tokenizer or args.model
    if not directory:
        raise InputError("--data needs --tokenizer DIR (or --model, whose tokenizer it takes).")
    chat = ChatFormat.load(hf.resolve(directory, weights=False), "offline", "in_place")
    settings = EncodeSettings(max_length=args.max_length, on_error="skip")
    by_way = {}
    for way in ways:
        dataset = load_dataset(
            args.data, args.format, chat, settings, way, recipe=method_of(cfg).recipe
        )
        batch = config.default().batch
        batch.interactions, batch.conversations = 0, args.conversations
        draws = Draws(dataset.interactions, batch, seed=0, epochs=1)
        packing = packing_for(dataset, draws, args.row_tokens, height, ignore_first=2)
        drawn = itertools.islice(draws.steps(), args.steps or None)
        steps = [dataset.trees_of(step) for step in drawn]
        packing = dataclasses.replace(packing, known=packing.known | method_of(cfg).known)
        batches = (batch for trees in steps for batch, _ in packing.batches(trees))
        by_way[way] = [bench.with_known(batch) for batch in batches]
    return by_way


def _row(figures: dict[str, Any]) -> list[str]:
    def format_value(key: str, form: str, unit: float = 1) -> str:
        value = figures.get(key)
        return "" if value is None else format(value / unit, form)

    def format_ratio(key: str) -> str:
        return (text := format_value(key, ".2f")) and text + "x"

    return [
        figures["sharing"],
        format_value("seconds", ".3f"),
        format_value("interactions_per_second", ".2f"),
        format_value("tokens_per_second", ",.0f"),
        format_value("padding", ".1%"),
        format_value("compiled_bytes", ",.0f", 1e6),
        format_value("flops", ",.0f", 1e9),
        format_value("flops_per_second", ",.0f", 1e9),
        format_value("mfu", ".1%"),
        format_ratio("faster"),
        format_ratio("bound"),
        format_value("flops_share", ".3f"),
    ]


if __name__ == "__main__":
    cli.run(main)
