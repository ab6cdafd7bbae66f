"""Answer the questions of a benchmark with a model, in the benchmark's own format.

    python launch/answer.py --benchmark mt_bench --questions question.jsonl --model pocket \\
        --out model_answer/pocket.jsonl
    python launch/answer.py --benchmark alpaca_eval --questions alpaca_eval.json \\
        --model runs/mine --name mine --out outputs.json --dtype bfloat16

Started again with the same arguments, it goes on where it stopped: `OUT.origin.json` says what made
the answers. Questions are files of the benchmarks; none is downloaded.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import collections
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from interact_jax import __version__, cli, digests, memory, sharding
from interact_jax.arguments import Parser
from interact_jax.data.chat import ChatFormat, check_date
from interact_jax.data.rendering import DATE
from interact_jax.data.tokenizer import load_tokenizer
from interact_jax.generation.chat_model import LocalChatModel
from interact_jax.generation.local import ROWS, open_engine
from interact_jax.help_text import Help
from interact_jax.leaderboards.answering import (
    AnswerFile,
    Asking,
    Outcome,
    answer,
    digest_of,
    stamps,
)
from interact_jax.leaderboards.benchmarks import BENCHMARKS
from interact_jax.leaderboards.formats import Question, read_questions
from interact_jax.opening import DTYPES, OpenedModel, open_model
from interact_jax.printable import count
from interact_jax.schema import InputError, Message, RunStopped

DIGITS = 32  # of a file's digest
NAMED = 5  # questions that a message names


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = parser.add_argument
    add("--benchmark", required=True, choices=list(BENCHMARKS), help="whose questions they are")
    add("--questions", required=True, metavar="FILE", help="the benchmark's file of questions")
    add("--model", required=True, help="Hugging Face directory, hub id, a run, or pocket")
    add("--out", required=True, metavar="FILE", help="file of answers, to write or to go on with")
    add("--name", default="", help="name of the model in the answers; by default that of --model")
    add(
        "--max-new-tokens",
        type=cli.at_least(0),
        default=0,
        metavar="N",
        help="tokens of an answer, at most; 0 = 2048 for alpaca_eval, 4096 for arena_hard, 1024 for"
        " mt_bench, 1280 for ifeval",
    )
    add(
        "--temperature",
        type=cli.at_least(0, float),
        help="of all answers; by default that of the question's category in mt_bench, else 0",
    )
    add("--seed", type=cli.setting_type("seed"), default=0, help="of sampling")
    add("--limit", type=cli.at_least(1), metavar="N", help="answer only the first N questions")
    add(
        "--save-every",
        type=cli.at_least(1),
        default=64,
        metavar="N",
        help="questions that are asked together, and then written",
    )
    add(
        "--on-error",
        default="stop",
        choices=["stop", "skip"],
        help="what to do with questions that are too long for the model: an error before the work,"
        " or leave them out, counted",
    )
    add(
        "--count-with",
        default="",
        metavar="DIR",
        help="tokenizer for arena_hard's token_len; by default the model's own, which is not the"
        " one of the released answers",
    )
    add("--date", default=DATE, metavar="DAY", help="date for chat templates that show it")
    add("--dtype", default="float32", choices=DTYPES, help="type of the computation")
    add("--rows", type=cli.at_least(1), default=ROWS, help="prompts that are sampled together")
    cli.name_flags({"model.path": "--model", "model.dtype": "--dtype", "data.date": "--date"})
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_date(args.date, "--date")
    cli.log_to_stderr(logging.INFO)
    memory.keep_freed()
    cli.keep_compiled()
    cli.check_output(args.out, args.questions)
    with cli.reserve_stdout(args.out):
        answer_all(args)


def answer_all(args: argparse.Namespace) -> None:
    benchmark = BENCHMARKS[args.benchmark]
    questions = read_questions(benchmark, args.questions)
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    model = open_model(args.model, mesh=mesh, dtype=args.dtype, attention="auto", date=args.date)
    name = args.name or Path(args.model).resolve().name
    tokens = args.max_new_tokens or benchmark.max_new_tokens
    asking = Asking(tokens, args.temperature, args.seed)
    origin = origin_of(args, model, name, questions, asking)
    file = AnswerFile.open(args.out, benchmark, questions, origin)
    fits = room_in(model)
    check_room(questions[: args.limit], fits, args.on_error)
    counting = load_tokenizer(Path(args.count_with)) if args.count_with else model.chat.tokenizer
    stamp = stamps(name, args.seed, lambda text: len(counting(text, add_special_tokens=False)[0]))

    portions = list(file.portions(args.save_every, args.limit))
    outcomes: list[Outcome] = []
    if portions:
        engine = open_engine(model, model.load(), rows=args.rows)
        chat_model = LocalChatModel(name, engine, model.chat)
        for portion in portions:
            last = portion is portions[-1]
            outcomes += answer(chat_model, benchmark, portion, asking, fits)
            file.add(outcomes[-len(portion) :], stamp)
            file.write(origin, last)
            logging.getLogger("interact_jax").info(
                "%d of %d questions answered", len(file.lines), len({q.key for q in questions})
            )
    cli.show(summary(args.out, file, outcomes, model.chat))
    report_missing(outcomes, args.on_error)


def origin_of(
    args: argparse.Namespace,
    model: OpenedModel,
    name: str,
    questions: Sequence[Question],
    asking: Asking,
) -> dict[str, Any]:
    """What the answers depend on, and with which a file of them may be continued."""
    files = sorted(
        file
        for folder in {model.files, model.tokenizer_files}
        for file in folder.iterdir()
        if file.suffix in (".safetensors", ".json", ".jinja", ".model") and file.is_file()
    )
    hashes = digests.of_files(files)
    return {
        "benchmark": args.benchmark,
        "model": name,
        **{f"digest of {f.name}": d[:DIGITS] for f, d in zip(files, hashes, strict=True)},
        "questions": digest_of(questions),
        "max_new_tokens": asking.max_new_tokens,
        "temperature": "by category" if asking.temperature is None else asking.temperature,
        "seed": asking.seed,
        "count_with": args.count_with,
        "date": args.date,
        "dtype": args.dtype,
        "interact_jax": __version__,
    }


def room_in(model: OpenedModel) -> Callable[[Sequence[Message]], bool]:
    """Whether a dialogue leaves room for a reply."""
    return lambda dialogue: len(model.chat.prompt(dialogue)) < model.config.max_positions


def check_room(
    questions: Sequence[Question], fits: Callable[[Sequence[Message]], bool], on_error: str
) -> None:
    """Raise InputError for first turns that leave no room, unless they are skipped."""
    long = [q.source for q in questions if not fits([Message("user", q.turns[0])])]
    if long and on_error == "stop":
        named = ", ".join(long[:NAMED]) + (", ..." if len(long) > NAMED else "")
        raise InputError(
            f"{count(len(long), 'question')} of {len(questions)} leave no room for an answer in the"
            f" model's context: {named}. Take a model with a longer one, or leave them out with"
            " --on-error skip; leaderboards want an answer to all."
        )


def summary(out: str, file: AnswerFile, outcomes: Sequence[Outcome], chat: ChatFormat) -> str:
    """One line: what was done, and anything unusual about it."""
    counts = {
        "from before": file.found,
        "cut at the limit": sum(outcome.cut for outcome in outcomes),
        "empty": sum(not text.strip() for outcome in outcomes for text in outcome.texts),
        "with their reasoning left out": sum(outcome.reasoned for outcome in outcomes),
        "to a text that parses as a special token": sum(
            any(map(chat.special_token_in, outcome.question.turns)) for outcome in outcomes
        ),
    }
    remarks = "".join(f", {number:,} {what}" for what, number in counts.items() if number)
    missing = len({question.key for question in file.questions} - file.lines.keys())
    left = f", {missing:,} without" if missing else ""
    return f"{count(len(file.lines), 'question')} with an answer{left}{remarks}: {out}"


def report_missing(outcomes: Sequence[Outcome], on_error: str) -> None:
    """Say which questions have no answer, by reason. Raises RunStopped unless they are skipped."""
    reasons = collections.defaultdict(list)
    for outcome in outcomes:
        if outcome.error:
            reasons[outcome.error].append(outcome.question.source)
    lines = [
        f"{count(len(sources), 'question')} without an answer: {reason}: "
        + ", ".join(sources[:NAMED])
        for reason, sources in reasons.items()
    ]
    if lines and on_error == "skip":
        cli.show(*lines)
    elif lines:
        raise RunStopped("; ".join(lines) + ". The same command tries them again.")


if __name__ == "__main__":
    cli.run(main, "What makes it smaller: --rows, --max-new-tokens, --dtype bfloat16.")
