"""Compare models pairwise: how often are their replies better than a baseline's?

    python launch/evaluate.py --run runs/quickstart --baseline pocket --prompts pocket \\
        --judge pocket --persona "sentence, polite, emoji, no question" --out evaluation
    python launch/evaluate.py --model mine-hf --baseline Qwen/Qwen3-4B --prompts prompts.jsonl \\
        --judge-model Qwen/Qwen3-8B --persona "No emojis, please." --oracle --out evaluation
    python launch/evaluate.py --replies mine.jsonl --baseline theirs.jsonl --judge people \\
        --out evaluation

The judge sees every pair in both orders; votes that differ are a tie. OUT/results.json has the
figures, OUT/judgements.jsonl every pair with its votes, OUT/replies/ the replies, OUT/index.html
the curve. Started again with the same --out, it makes no reply and no verdict twice.

People judge on OUT/pairs.html, in any browser; their saved files are read by the same command with
--judgements FILE ... added.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import cli, lock, memory, places, progress, report
from interact_jax.data.chat import check_date
from interact_jax.data.rendering import DATE
from interact_jax.generation import Prompt, count_repairs, read_prompts
from interact_jax.generation.engine import SamplingParams
from interact_jax.judges import model_judge, people, pocket_judge, statistics
from interact_jax.judges import replies as replying
from interact_jax.judges.contest import Answered, Contest, answer, pair_up, results
from interact_jax.judges.judge import Judge
from interact_jax.judges.local import local_judge
from interact_jax.judges.pairwise import VERDICT_FIELDS, Judgement, Pair, judge_pairs
from interact_jax.judges.replies import Replies, Sampling, lines_of
from interact_jax.judges.sides import (
    FileSide,
    ModelSide,
    open_file,
    open_run,
    open_side,
    open_weights,
    with_oracle,
)
from interact_jax.judges.store import Store
from interact_jax.opening import DTYPES
from interact_jax.pocket import world
from interact_jax.printable import count
from interact_jax.schema import InputError, Message

log = logging.getLogger("interact_jax.launch.evaluate")

POCKET = "pocket"
POCKET_PROMPTS = 256  # held-out requests that --prompts pocket stands for, without --limit
PAIRS_SHOWN = 50  # on the page
MODEL, PEOPLE = "model", "people"
SETTINGS = replying.SETTINGS | model_judge.SETTINGS | statistics.SETTINGS | people.SETTINGS
FLAGS = {name: f"--{name.replace('_', '-')}" for name in SETTINGS}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=cli.Help, allow_abbrev=False
    )
    add = parser.add_argument
    names: Any = {"nargs": "+", "default": [], "metavar": "NAME"}
    add("--model", **names, help="candidates: Hugging Face directories, hub ids, or pocket")
    add("--run", **names, help="candidates: the checkpoints of these runs, a curve for each")
    add("--steps", default="all", metavar="STEPS", help="which: all, last, or such as 40,80")
    add("--replies", **names, help="candidates: files of launch/generate.py")
    add(
        "--oracle",
        action="store_true",
        help="also the baseline with the persona in its system prompt",
    )
    add("--baseline", required=True, metavar="NAME", help="a model, or a file of replies")
    add(
        "--prompts",
        metavar="FILE",
        help="as launch/generate.py reads them, or pocket; by default those of the baseline's file",
    )
    add(
        "--limit", type=cli.at_least(0), default=0, metavar="N", help="the first N prompts; 0 = all"
    )
    add("--judge", default=MODEL, choices=[MODEL, POCKET, PEOPLE], help="who compares")
    add("--judge-model", default="", metavar="NAME", help="the judge, with --judge model")
    add(
        "--persona",
        default="",
        metavar="TEXT",
        help="what the reader wants, or @FILE; empty = which reply is better in general. For the "
        f"pocket judge styles: {pocket_judge.EXAMPLE!r}",
    )
    add("--judgements", nargs="+", default=[], metavar="FILE", help="what people saved, to be read")
    add("--out", required=True, metavar="DIR", help="directory to write, and to resume from")
    add("--dtype", default="float32", choices=DTYPES, help="type of the computation")
    add("--date", default=DATE, metavar="DAY", help="for chat templates that show it: YYYY-MM-DD")
    cli.add_settings(parser, FLAGS, table=SETTINGS)
    cli.name_flags({"model.path": "--model", "model.dtype": "--dtype", "data.date": "--date"})
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_date(args.date, "--date")
    sampling = Sampling(
        SamplingParams(max_new_tokens=args.max_new_tokens, temperature=args.temperature),
        args.samples,
        args.seed,
    )
    sampling.check()
    check_flags(args)
    places.check_directory(f"--out {args.out}", args.out)
    cli.log_to_stderr(logging.INFO)
    memory.keep_freed()
    cli.keep_compiled()
    with lock.hold(Path(args.out)):
        evaluate(args, sampling)


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError for flags that do not go together."""
    if args.judge == MODEL and not args.judge_model:
        raise InputError(
            "--judge model: which? Name it with --judge-model, or take --judge people or pocket."
        )
    if args.judge_model and args.judge != MODEL:
        raise InputError(
            f"--judge-model {args.judge_model}: --judge is {args.judge}. Leave one out."
        )
    if args.judgements and args.judge != PEOPLE:
        raise InputError("--judgements: they are people's; add --judge people.")
    if args.oracle and not args.persona:
        raise InputError("--oracle: told what? Give the --persona that it is to know.")
    if args.judge == POCKET:
        pocket_judge.parse_preference(read_persona(args.persona))


def evaluate(args: argparse.Namespace, sampling: Sampling) -> None:
    out = Path(args.out)
    persona = read_persona(args.persona)
    contest = open_contest(args, persona)
    with (
        Store.open(out / "cache/replies.jsonl", *replying.FIELDS) as made,
        Store.open(out / "cache/verdicts.jsonl", *VERDICT_FIELDS) as verdicts,
    ):
        replies = Replies(made, sampling, args.rows)
        judge = open_judge(args, persona, replies)
        if judge is not None:
            judge.check({prompt.source: prompt.messages for prompt in contest.prompts})
        contest.check(replies)
        answered = answer(contest, replies)
        write_replies(out / "replies", contest, answered)
        pairs = pair_up(contest, answered)
        if judge is None:
            judged, names, notes = ask_people(args, persona, pairs)
        else:
            judged, names, notes = ask(judge, pairs, verdicts), judge.name, []
    if judged is None:
        cli.show(*notes)
        return
    found = {
        "judge": names,
        "persona": persona,
        "settings": settings_of(args, judge),
        "notes": [*notes_on(contest, replies, answered), *notes],
        **results(contest, answered, judged, judge, args.bootstrap, args.seed),
    }
    write(out, found, judged)


# --------------------------------------------------------------------------------- what is compared


def read_persona(given: str) -> str:
    """The text, or that of the file behind "@"."""
    if not given.startswith("@"):
        return given.strip()
    try:
        text = Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"--persona {given}: cannot be read ({error}).") from None
    if not text:
        raise InputError(f"--persona {given}: an empty file; expected what the reader wants.")
    return text


def open_contest(args: argparse.Namespace, persona: str) -> Contest:
    options = {"dtype": args.dtype, "date": args.date}
    baseline = open_side(args.baseline, **options)
    several = len(args.run) > 1
    candidates: list[ModelSide | FileSide] = [
        *(open_weights(path, **options) for path in args.model),
        *(
            side
            for run in args.run
            for side in open_run(run, args.steps, several=several, **options)
        ),
        *(open_file(path) for path in args.replies),
    ]
    if args.oracle:
        if not isinstance(baseline, ModelSide):
            raise InputError(
                f"--oracle: {args.baseline} is a file, and it takes a model to tell a persona to. "
                "Name a model as --baseline."
            )
        told = persona
        if args.judge == POCKET:
            told = pocket_judge.in_words(pocket_judge.parse_preference(persona))
        candidates.append(with_oracle(baseline, told))
    return Contest(baseline, candidates, open_prompts(args, baseline))


def open_prompts(args: argparse.Namespace, baseline: ModelSide | FileSide) -> list[Prompt]:
    if args.prompts == POCKET:
        requests = world.held_out_requests(args.limit or POCKET_PROMPTS, seed=0)
        return [
            Prompt((Message("user", request.text),), {"prompt": request.text}, f"pocket:{number}")
            for number, request in enumerate(requests, 1)
        ]
    if args.prompts is not None:
        prompts = read_prompts(args.prompts)
    elif isinstance(baseline, FileSide):
        prompts = list(baseline.lines)[:: args.samples]
    else:
        raise InputError(
            "--prompts: which? Give a file, as launch/generate.py reads it, or pocket."
        )
    return prompts[: args.limit or None]


def open_judge(args: argparse.Namespace, persona: str, replies: Replies) -> Judge | None:
    """None for people, who are no part of the program."""
    if args.judge == PEOPLE:
        return None
    if args.judge == POCKET:
        return pocket_judge.PocketJudge(pocket_judge.parse_preference(persona))
    side = open_weights(args.judge_model, args.dtype, args.date)
    engine = replies.engine_for(side.model)
    return local_judge(side, engine, persona, args.judge_tokens)


# ------------------------------------------------------------------------------------------ judging


def ask(
    judge: Judge, pairs: Mapping[str, Sequence[Pair]], verdicts: Store
) -> dict[str, list[Judgement]]:
    judged = {}
    for name, some in pairs.items():
        with progress.of(f"{name}: judging {count(len(some), 'pair')}"):
            judged[name] = judge_pairs(judge, some, verdicts)
    return judged


def ask_people(
    args: argparse.Namespace, persona: str, pairs: Mapping[str, Sequence[Pair]]
) -> tuple[dict[str, list[Judgement]] | None, str, list[str]]:
    """Judgements, the names of who gave them, and notes; before anybody has judged, None."""
    page = people.Page.of(pairs, persona, args.pairs, args.seed)
    shown = count(len(page.shown), "pair")
    if not args.judgements:
        file = page.write(Path(args.out) / "pairs.html")
        remedy = "Open it, judge, save; then add --judgements FILE ... to this command."
        return None, "", [f"{shown} to judge: {file}", remedy]
    everybody = people.read_all(page, args.judgements)
    judged: dict[str, list[Judgement]] = {name: [] for name in pairs}
    for answers in everybody:
        for name, some in answers.judgements.items():
            judged[name] += some
    notes = [f"{each.name}: {each.open} of {shown} left open" for each in everybody if each.open]
    if sum(map(len, pairs.values())) > len(page.shown):
        notes.append(f"{shown} of {sum(map(len, pairs.values())):,} were shown (--pairs)")
    return judged, "people: " + ", ".join(each.name for each in everybody), notes


# ------------------------------------------------------------------------------------------ results


def settings_of(args: argparse.Namespace, judge: Judge | None) -> dict[str, Any]:
    """What the results depend on, beyond the names in them."""
    named = {name: getattr(args, name) for name in SETTINGS if name != "rows"}
    own = dict(judge.settings) if judge is not None else {}
    prompts = args.prompts if args.prompts is not None else args.baseline
    return {"prompts": prompts, "limit": args.limit, **named, "dtype": args.dtype, "judge": own}


def notes_on(contest: Contest, replies: Replies, answered: Answered) -> list[str]:
    """What is unusual about prompts and replies."""
    mended = count_repairs(list(contest.prompts))
    notes = [f"{count(number, 'prompt')} {what}" for what, number in mended.items()]
    for name, number in replies.unused.items():
        notes.append(f"{name}: {count(number, 'reply', 'replies')} to none of the prompts")
    for name, some in answered.items():
        flat = [reply for each in some for reply in each]
        for what, number in {
            "cut at --max-new-tokens": sum(reply.finished is False for reply in flat),
            "empty": sum(not reply.text.strip() for reply in flat),
        }.items():
            if number:
                notes.append(f"{name}: {count(number, 'reply', 'replies')} {what}")
    return notes


def write_replies(folder: Path, contest: Contest, answered: Answered) -> None:
    """A file per side, as launch/generate.py writes them."""
    folder.mkdir(exist_ok=True)
    taken: set[str] = set()
    for name, replies in answered.items():
        stem = re.sub(r"[^\w.-]+", "_", name).strip("._") or "side"
        stem, number = stem[-80:], 2
        while stem in taken:
            stem, number = f"{stem}-{number}", number + 1
        taken.add(stem)
        cli.write_lines(folder / f"{stem}.jsonl", lines_of(contest.prompts, replies))


def write(out: Path, found: dict[str, Any], judged: Mapping[str, Sequence[Judgement]]) -> None:
    """results.json, judgements.jsonl and the page; the table in the terminal."""
    baseline = found["baseline"]["name"]
    lines = [each.line(name, baseline) for name, some in judged.items() for each in some]
    cli.write_lines(out / "judgements.jsonl", lines)
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
    places.write(out / "results.json", text + "\n")
    shown = lines[:: max(1, -(-len(lines) // PAIRS_SHOWN))]
    page = report.write_evaluation_page(out, found, shown, len(lines))
    cli.show(
        f"judge {found['judge']}, against {baseline}, {count(found['prompts'], 'prompt')}",
        *report.win_rate_lines(found["candidates"]),
        *found["notes"],
        f"report: {page}",
    )


if __name__ == "__main__":
    cli.run(main, "What makes it smaller: --rows, --max-new-tokens, --dtype bfloat16.")
