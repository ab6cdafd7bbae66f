"""Compare models pairwise: how often are their replies better than a baseline's?

    python launch/evaluate.py --run runs/quickstart --baseline pocket --prompts pocket \\
        --judge pocket --persona "sentence, polite, emoji, no question" --out evaluation
    python launch/evaluate.py --model mine-hf --baseline Qwen/Qwen3-4B --prompts prompts.jsonl \\
        --judge-model Qwen/Qwen3-8B --persona "No emojis, please." --oracle --out evaluation
    python launch/evaluate.py --model mine-hf --baseline Qwen/Qwen3-4B --prompts prompts.jsonl \\
        --judge openai:gpt-4.1-mini --persona concise_casual_expert --out evaluation
    python launch/evaluate.py --replies mine.jsonl --baseline theirs.jsonl --judge people \\
        --out evaluation
    python launch/evaluate.py --model pocket --tasks pocket --out tasks --json measures.json

The judge sees every pair in both orders; votes that differ are a tie. OUT/results.json has the
figures, OUT/judgements.jsonl every pair with its votes, OUT/replies/ the replies, OUT/index.html
the curve. Started again with the same --out, it makes no reply and no verdict twice.

With --tasks, models and checkpoints are measured by themselves instead, as a run measures its own
before and after training; OUT/tasks.json has the figures.

People judge on OUT/pairs.html, in any browser; their saved files are read by the same command with
--judgements FILE ... added.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import cli, evaluation, lock, memory, places, progress
from interact_jax.arguments import Parser
from interact_jax.data.chat import check_date
from interact_jax.data.rendering import DATE
from interact_jax.generation import Prompt, read_prompts
from interact_jax.help_text import Help
from interact_jax.judges import model_judge, output, people, pocket_judge, statistics, tasks
from interact_jax.judges import replies as replying
from interact_jax.judges.contest import Contest, answer, pair_up, results
from interact_jax.judges.judge import Judge
from interact_jax.judges.local import local_judge
from interact_jax.judges.notes import notes_on_replies, notes_on_verdicts
from interact_jax.judges.pairwise import VERDICT_FIELDS, Judgement, Pair, judge_pairs
from interact_jax.judges.remote import is_remote, remote_judge
from interact_jax.judges.replies import Replies, Sampling
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
from interact_jax.sampling_flags import add_flags, params_of
from interact_jax.schema import InputError, Message
from interact_jax.users.persona import Persona, read_persona

log = logging.getLogger("interact_jax.launch.evaluate")

POCKET = "pocket"
POCKET_PROMPTS = 256  # held-out requests that --prompts pocket stands for, without --limit
MODEL, PEOPLE = "model", "people"
SETTINGS = replying.SETTINGS | model_judge.SETTINGS | statistics.SETTINGS | people.SETTINGS
SEEDED = "of sampling, of the bootstrap and of the pages' order"
OF_TASKS = ("model", "run", "steps", "tasks", "limit", "seed", "out", "json", "dtype", "date")
FLAGS = {name: f"--{name.replace('_', '-')}" for name in SETTINGS}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Help, allow_abbrev=False)
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
    add("--baseline", default="", metavar="NAME", help="a model, or a file of replies")
    add(
        "--tasks",
        **names | {"metavar": "TASK"},
        help=f"measure instead of comparing: {', '.join(evaluation.EVALUATIONS)} (styles that the "
        "shipped logs' users want, right and readable answers, sampled as a run does it)",
    )
    add(
        "--prompts",
        metavar="FILE",
        help="as launch/generate.py reads them, or pocket; by default those of the baseline's file",
    )
    add(
        "--limit",
        type=cli.at_least(0),
        default=0,
        metavar="N",
        help=f"the first N prompts; 0 = all. With --tasks replies; 0 = {tasks.REPLIES:,}, a run's",
    )
    add(
        "--judge",
        default=MODEL,
        metavar="WHO",
        help=f"who compares: {MODEL}, {POCKET}, {PEOPLE}, or a model behind an endpoint, as "
        "openai:MODEL, openai:MODEL@URL or anthropic:MODEL",
    )
    add("--judge-model", default="", metavar="NAME", help="the judge, with --judge model")
    add(
        "--persona",
        default="",
        metavar="WHAT",
        help="what the reader wants: a text, @FILE, a persona by name (docs/users.md) or "
        "FILE.toml:NAME; empty = which reply is better in general. For the pocket judge styles: "
        f"{pocket_judge.EXAMPLE!r}",
    )
    add("--judgements", nargs="+", default=[], metavar="FILE", help="what people saved, to be read")
    add("--out", required=True, metavar="DIR", help="directory to write, and to resume from")
    add("--json", default="", metavar="FILE", help="the results once more, as this file")
    add("--dtype", default="float32", choices=DTYPES, help="type of the computation")
    add("--date", default=DATE, metavar="DAY", help="for chat templates that show it: YYYY-MM-DD")
    add_flags(parser, temperature=0.0, new_tokens=256, seeded=SEEDED)
    cli.add_settings(parser, FLAGS, table=SETTINGS)
    cli.name_flags({"model.path": "--model", "model.dtype": "--dtype", "data.date": "--date"})
    args = parser.parse_args(argv)
    if args.tasks:
        alien = [name for name in vars(args) if name not in OF_TASKS]
        if unused := [name for name in alien if getattr(args, name) != parser.get_default(name)]:
            flag = f"--{unused[0].replace('_', '-')}"
            raise InputError(f"--tasks measures models by themselves: leave {flag} out.")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_date(args.date, "--date")
    sampling = Sampling(params_of(args), args.samples, args.seed)
    sampling.check()
    check_flags(args)
    places.check_directory(f"--out {args.out}", args.out)
    cli.log_to_stderr(logging.INFO)
    memory.keep_freed()
    cli.keep_compiled()
    with lock.hold(Path(args.out)):
        if args.json:  # it may be in --out, which is there now
            read = (*args.replies, args.baseline, args.prompts or "")
            cli.check_output(args.json, *read, option="--json")
        if args.tasks:
            measure(args)
        else:
            evaluate(args, sampling)


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError for flags that do not go together."""
    if args.tasks:
        tasks.check_names(args.tasks)
        return
    if not args.baseline:
        raise InputError(
            "--baseline: which? Give what to compare with, or --tasks to measure models by "
            "themselves."
        )
    if args.judge not in (MODEL, POCKET, PEOPLE) and not is_remote(args.judge):
        raise InputError(
            f"--judge {args.judge}: expected {MODEL}, {POCKET}, {PEOPLE}, openai:MODEL, "
            "openai:MODEL@URL or anthropic:MODEL."
        )
    if args.judge == MODEL and not args.judge_model:
        raise InputError(
            "--judge model: which? Name it with --judge-model, or take --judge openai:MODEL, "
            "anthropic:MODEL, people or pocket."
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
        pocket_judge.parse_preference(open_persona(args).text)


def measure(args: argparse.Namespace) -> None:
    """--tasks."""
    sides = open_models(args)
    if not sides or len({side.name for side in sides}) < len(sides):
        raise InputError("--tasks: of which models? Name each once, by --model or --run.")
    replies, out = args.limit or tasks.REPLIES, Path(args.out)
    with Store.open(out / "cache/tasks.jsonl", *tasks.FIELDS) as store:
        lines = tasks.measure_sides(sides, args.tasks, replies, args.seed, store)
    settings = {"replies": replies, "seed": args.seed, "dtype": args.dtype}
    found = {"tasks": args.tasks, "settings": settings, "models": lines}
    output.write_json(found, out / "tasks.json", args.json)
    cli.show(*tasks.table(lines), f"results: {out / 'tasks.json'}")


def evaluate(args: argparse.Namespace, sampling: Sampling) -> None:
    out = Path(args.out)
    persona = open_persona(args)
    with (
        Store.open(out / "cache/replies.jsonl", *replying.FIELDS) as made,
        Store.open(out / "cache/verdicts.jsonl", *VERDICT_FIELDS) as verdicts,
    ):
        replies = Replies(made, sampling, args.rows)
        judge = open_judge(args, persona.text, replies)  # first: its key may be missing
        contest = open_contest(args, persona.text)
        if judge is not None:
            judge.check({prompt.source: prompt.messages for prompt in contest.prompts})
        contest.check(replies)
        answered = answer(contest, replies)
        output.write_replies(out / "replies", contest.prompts, answered)
        pairs = pair_up(contest, answered)
        if judge is None:
            judged, names, notes = ask_people(args, persona.text, pairs)
        else:
            judged, names = ask(judge, pairs, verdicts), judge.name
            notes = list(notes_on_verdicts(judged))
    if judged is None:
        cli.show(*notes)
        return
    found = {
        "judge": names,
        "persona": persona.text,
        "persona_name": persona.name,
        "settings": settings_of(args, sampling, judge),
        "notes": [*notes_on_replies(contest, replies, answered), *notes],
        **results(contest, answered, judged, judge, args.bootstrap, args.seed),
    }
    cli.show(*output.write(out, found, judged, args.json))


# --------------------------------------------------------------------------------- what is compared


def open_persona(args: argparse.Namespace) -> Persona:
    """What the reader wants; the pocket judge's styles are no names of personas."""
    given = args.persona.strip()
    if args.judge == POCKET and not given.startswith("@"):
        return Persona("", given)
    return read_persona(given)


def open_models(args: argparse.Namespace) -> list[ModelSide]:
    """Those of --model, and the checkpoints of --run."""
    options = {"dtype": args.dtype, "date": args.date}
    several = len(args.run) > 1
    runs = (open_run(run, args.steps, several=several, **options) for run in args.run)
    models = [open_weights(path, **options) for path in args.model]
    return [*models, *itertools.chain.from_iterable(runs)]


def open_contest(args: argparse.Namespace, persona: str) -> Contest:
    baseline = open_side(args.baseline, args.dtype, args.date)
    candidates: list[ModelSide | FileSide] = [*open_models(args), *map(open_file, args.replies)]
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
    if is_remote(args.judge):
        return remote_judge(args.judge, persona, args.judge_tokens)
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


def settings_of(
    args: argparse.Namespace, sampling: Sampling, judge: Judge | None
) -> dict[str, Any]:
    """What the results depend on, beyond the names in them."""
    named = {name: getattr(args, name) for name in SETTINGS if name != "rows"}
    named |= dataclasses.asdict(sampling.params) | {"seed": args.seed}
    named["stop"] = list(sampling.params.stop)
    own = dict(judge.settings) if judge is not None else {}
    prompts = args.prompts if args.prompts is not None else args.baseline
    return {"prompts": prompts, "limit": args.limit, **named, "dtype": args.dtype, "judge": own}


if __name__ == "__main__":
    cli.run(main, "What makes it smaller: --rows, --max-new-tokens, --dtype bfloat16.")
