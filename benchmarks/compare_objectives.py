"""Every objective and teacher on the same logs of the pocket world, measured the same way.

    python benchmarks/compare_objectives.py --out runs/compare                 all stages, in turn
    python benchmarks/compare_objectives.py --out runs/compare --list          done, and left
    python benchmarks/compare_objectives.py --out runs/compare --stage compare --only '/sdpo/' \\
        --minutes 30
    python benchmarks/compare_objectives.py --out runs/compare --stage table   Markdown

    tune       learning rates, on logs of a preference and a seed that are not reported
    compare    every method, at the rate of its objective: two preferences, three seeds
    stability  ten times the steps, measured along the way; a run ends once it has collapsed

Users of one preference talk to the shipped model once for each seed; all methods learn from these
logs and then answer the same held-out requests. A case is one line of DIR/RESULTS.jsonl, written
when it is finished. Started again, the program continues with the next.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

import argparse
import collections
import dataclasses
import functools
import json
import logging
import math
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interact_jax import cli, config, divergences, memory, pocket, train
from interact_jax.arguments import Parser
from interact_jax.generation import Completion
from interact_jax.judges.sides import digest_of_model
from interact_jax.logits import Logits
from interact_jax.models.decoder import Decoder, head_DxV
from interact_jax.models.layers import linear
from interact_jax.pocket import logs, measure, world
from interact_jax.pocket.speaker import Speaker
from interact_jax.schema import InputError, Message, TokenStream

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.py"

# ------------------------------------------------------------------------------ what is compared

PREFERENCES = {
    "shipped": measure.LOGGED_PREFERENCE,
    "loud": {"capitals": True, "exclamation": True, "question": True, "polite": False},
    "tuning": {"capitals": True, "sentence": True, "emoji": True, "exclamation": False},
}
SEEDS = (0, 1, 2)  # of logs, of training, and of the held-out requests
TUNING_SEED = 100
RATES = (1.3e-4, 2.6e-4, 5.2e-4, 1.04e-3, 6.5e-5)  # the quickstart's, and others by factors of two
MAY_LOSE = 0.02  # of the correct answers, for a rate to be acceptable
MARKS = (1, 2, 5, 10)  # epochs after which the stage "stability" measures
COLLAPSED = {"readable": 0.9, "correct lost": 0.1}
KL_REPLIES = 512

DISTILLED: dict[str, dict[str, Any]] = {
    "sdpo": {},
    "sdpo_centred": {"objective.centred": True},
    "reverse_kl": {"objective.name": "reverse_kl"},
    "forward_kl": {"objective.name": "forward_kl"},
    "jsd": {"objective.name": "jsd", "objective.alpha": 0.5},
    "top_k": {"objective.name": "top_k", "objective.k": 20, "objective.k_by": "student"},
}
HELD = {  # kept near the initial model; at the rate of the objective before the plus sign
    f"{name}+kl": DISTILLED[name] | {"objective.kl_initial": 0.1} for name in ("sdpo", "reverse_kl")
}
BASELINES: dict[str, dict[str, Any]] = {
    "sft": {"objective.name": "sft"},
    "sft_revised": {"objective.name": "sft_revised"},
    "dpo": {"objective.name": "dpo", "objective.beta": 0.1},
}
OBJECTIVES = DISTILLED | HELD | BASELINES
START, NONE = "start", "none"  # the model as it is shipped; no teacher
FIRST = [*((name, "self") for name in (*DISTILLED, *HELD)), *((name, NONE) for name in BASELINES)]
GENTLE = [
    "jsd",
    "sft_revised",
    "dpo",
]  # also compared at the quickstart's rate, since their own is higher
OTHERS = [(name, t) for t in ("ema", "frozen", "trust_region") for name in DISTILLED]
METHODS = [(START, NONE), *FIRST, *OTHERS]


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the results; without `lr`, the best rate of the stage "tune" is used."""

    stage: str
    preference: str
    seed: int
    objective: str
    teacher: str
    lr: float | None = None

    @property
    def name(self) -> str:
        parts = (self.stage, self.preference, self.seed, self.objective, self.teacher)
        return "/".join(map(str, parts)) + (f"/{self.lr:.1e}" if self.lr else "")


def tune_cases() -> Iterator[Case]:
    case = functools.partial(Case, "tune", "tuning", TUNING_SEED)
    yield case(START, NONE)
    for lr in RATES:
        yield from (case(name, teacher, lr) for name, teacher in FIRST if name not in HELD)


def compare_cases() -> Iterator[Case]:
    """All cases of one seed before the next; those that differ most come first."""
    gentle = [method for method in FIRST if method[0] in GENTLE]
    for seed in SEEDS:
        for tuned, at_first_rate in (([(START, NONE), *FIRST], gentle), (OTHERS, [])):
            for preference in ("shipped", "loud"):
                case = functools.partial(Case, "compare", preference, seed)
                yield from (case(*method) for method in tuned)
                yield from (case(*method, RATES[0]) for method in at_first_rate)


def stability_cases() -> Iterator[Case]:
    for method in METHODS:
        yield Case("stability", "shipped", SEEDS[0], *method)


STAGES = {"tune": tune_cases, "compare": compare_cases, "stability": stability_cases}

# ---------------------------------------------------------------------------------------- results

Record = dict[str, Any]
"""A case's fields and its `marks`: the measures after each number of epochs."""


def read_results(file: Path) -> dict[str, Record]:
    """The results by the names of their cases."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {record["case"]: record for record in map(json.loads, lines)}


def start_of(case: Mapping[str, Any], results: Mapping[str, Record]) -> Record | None:
    """The measures of the shipped model that belong to a case, if they exist."""
    name = Case(case["stage"], case["preference"], case["seed"], START, NONE).name
    return results[name]["marks"][0] if name in results else None


def tuning_results(
    objective: str, results: Mapping[str, Record]
) -> dict[float, tuple[float, bool]]:
    """For every rate tried: the share of wanted styles, and whether answers stayed correct."""
    outcomes = {}
    for record in results.values():
        if record["stage"] == "tune" and record["objective"] == objective.partition("+")[0]:
            before, after = start_of(record, results), record["marks"][-1]
            kept = before is None or after["correct"] >= before["correct"] - MAY_LOSE
            outcomes[record["lr"]] = (after["wanted_styles"], kept)
    return outcomes


def best_rate(objective: str, results: Mapping[str, Record]) -> float:
    """The rate with most wanted styles that keeps the answers correct; the quickstart's if none
    does, or none was tried."""
    wanted = {lr: share for lr, (share, kept) in tuning_results(objective, results).items() if kept}
    return max(wanted, key=wanted.__getitem__, default=RATES[0])


def is_needless(case: Case, results: Mapping[str, Record]) -> bool:
    """Whether a case's rate is above one that is too high, or half of one that is not."""
    if case.stage != "tune" or case.lr is None:
        return False
    tried = {lr: kept for lr, (_, kept) in tuning_results(case.objective, results).items()}
    return any(
        (lr < case.lr and not kept) or (lr == 2 * case.lr and kept) for lr, kept in tried.items()
    )


def remaining(cases: Sequence[Case], results: Mapping[str, Record]) -> list[Case]:
    """The cases that are still to be run, in their order."""
    return [c for c in cases if c.name not in results and not is_needless(c, results)]


def has_collapsed(mark: Mapping[str, float], before: Mapping[str, float]) -> bool:
    lost = before["correct"] - mark["correct"]
    return mark["readable"] < COLLAPSED["readable"] or lost > COLLAPSED["correct lost"]


# ---------------------------------------------------------------------------------------- measure


def measure_params(speaker: Speaker, params: Any, case: Case, replies: int) -> dict[str, float]:
    """Measures of the weights' replies to held-out requests, and KL from the speaker's own."""
    requests = world.held_out_requests(replies, case.seed)
    prompts = [speaker.chat.prompt([Message("user", request.text)]) for request in requests]
    completions = speaker.with_params(params).replies(prompts, case.seed)
    texts = [speaker.text(completion) for completion in completions]
    measures = measure.measure(texts, requests, PREFERENCES[case.preference])
    kl = kl_initial(speaker, params, prompts[:KL_REPLIES], completions[:KL_REPLIES])
    return {name: round(x, 5) for name, x in {**measures, "kl": kl}.items() if name != "replies"}


def kl_initial(
    speaker: Speaker,
    params: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
) -> float:
    """Mean over the sampled tokens of KL(policy, initial) over the vocabulary, nats."""
    B, most = min(128, len(prompts)), max(len(prompt) for prompt in prompts)
    L = -(-(most + measure.MAX_NEW_TOKENS) // 16) * 16  # so that all seeds share a compiled program
    total = count = 0.0
    for start in range(0, len(prompts), B):
        id_BxL, length_B, count_B = np.zeros((B, L), np.int32), np.ones(B, int), np.zeros(B, int)
        for row, prompt in enumerate(prompts[start : start + B]):
            ids = [*prompt, *completions[start + row].ids]
            id_BxL[row, : len(ids)] = ids
            length_B[row], count_B[row] = len(prompt), len(ids) - len(prompt)
        total += float(_kl_sum(speaker.decoder, params, speaker.params, id_BxL, length_B, count_B))
        count += count_B.sum()
    return total / count


@functools.partial(jax.jit, static_argnums=0)
def _kl_sum(
    decoder: Decoder,
    params: Any,
    initial: Any,
    id_BxL: jax.Array,
    length_B: jax.Array,
    count_B: jax.Array,
) -> jax.Array:
    """The sum over the `count_B` tokens that follow prompts of `length_B`."""
    B, L = id_BxL.shape
    position_BxL = jax.lax.broadcasted_iota(jnp.int32, (B, L), 1)
    real_BxL = position_BxL < (length_B + count_B)[:, None]
    stream = TokenStream(
        id_BxL, position_BxL, real_BxL.astype(jnp.int32), jnp.zeros((B, L), jnp.int32)
    )
    number_BxN = jax.lax.broadcasted_iota(jnp.int32, (B, measure.MAX_NEW_TOKENS), 1)
    predictor_BxN = length_B[:, None] - 1 + number_BxN

    def logits(weights: Any) -> Logits:
        hidden_BxLxD, _ = decoder.apply({"params": weights}, stream)
        hidden_BxNxD = jnp.take_along_axis(hidden_BxLxD, predictor_BxN[:, :, None], axis=1)
        return Logits(linear(hidden_BxNxD, head_DxV(weights), jnp.float32))

    kl_BxN = divergences.reverse_kl(logits(params), logits(initial))
    return jnp.where(number_BxN < count_B[:, None], kl_BxN, 0.0).sum()


# ------------------------------------------------------------------------------------------- run


@functools.cache
def shipped_model() -> str:
    """What tells the shipped model from those of other versions."""
    return digest_of_model(pocket.MODEL)


@dataclasses.dataclass
class Bench:
    """What all cases have in common."""

    out: Path
    speaker: Speaker  # the shipped model
    interactions: int
    replies: int

    @property
    def file(self) -> Path:
        return self.out / "RESULTS.jsonl"

    def logs(self, case: Case) -> Path:
        """The file of conversations of the case's users with the shipped model; made once."""
        file = self.out / "logs" / f"{case.preference}_{case.seed}.jsonl.gz"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            user = world.User(world.check_preference(PREFERENCES[case.preference]))
            conversations = logs.converse(self.speaker, user, self.interactions, case.seed)
            temporary = file.with_suffix(".tmp")
            logs.write_logs(conversations, temporary)
            temporary.replace(file)
        return file

    def measure(self, params: Any, case: Case) -> dict[str, float]:
        replies = self.replies // 2 if case.stage == "tune" else self.replies
        return measure_params(self.speaker, params, case, replies)

    def run(self, case: Case, results: Mapping[str, Record]) -> Record:
        """Train and measure one case."""
        began = time.perf_counter()
        if case.objective == START:
            fields: Record = {"marks": [{"epochs": 0, **self.measure(self.speaker.params, case)}]}
        else:
            lr = case.lr or best_rate(case.objective, results)
            marks = list(self.marks(case, lr, start_of(vars(case), results)))
            fields = {"lr": lr, "marks": marks}
        sizes = {"interactions": self.interactions, "replies": self.replies}
        ends = {"model": shipped_model(), "wall_seconds": round(time.perf_counter() - began, 1)}
        return {"case": case.name, **vars(case), **fields, **sizes, **ends}

    def marks(self, case: Case, lr: float, before: Record | None) -> Iterator[Record]:
        """Train, and measure after some of the epochs. `seconds` exclude compilation: they are the
        number of steps times the median."""
        epochs = MARKS if case.stage == "stability" else MARKS[:1]
        cfg = settings(case, lr, self.logs(case), epochs[-1])
        with tempfile.TemporaryDirectory() as workdir:
            run = train.start(cfg, workdir)
            steps = run.total_steps
            for epoch in epochs:
                run.total_steps = round(
                    steps * epoch / epochs[-1]
                )  # the schedule keeps the full length
                train.loop(run)
                lines = (run.workdir / "metrics.jsonl").read_text().splitlines()
                step = statistics.median(json.loads(line)["seconds"] for line in lines)
                measures = self.measure(run.state.params, case)
                seconds = round(step * len(lines), 2)
                yield {"epochs": epoch, "steps": len(lines), **measures, "seconds": seconds}
                if before and has_collapsed(measures, before):
                    break
            run.checkpoints.close()


def settings(case: Case, lr: float, path: Path, epochs: int) -> Any:
    """The quickstart's settings with the changes of the case."""
    changed: dict[str, Any] = {
        "data.path": path,
        "evaluation.name": "none",
        "evaluation.holdout": 0.0,
        "report.interactions": 0,
        "checkpoint.every": 1_000_000,  # only at the end
        "epochs": epochs,
        "optim.lr": lr,
        "seed": case.seed,
        **OBJECTIVES[case.objective],
    }
    if case.teacher != NONE:
        changed["teacher.name"] = case.teacher
    overrides = [f"{name}={value}" for name, value in changed.items()]
    return config.load(str(QUICKSTART), overrides)


def run_cases(bench: Bench, cases: Sequence[Case], minutes: float) -> None:
    """Run the cases that are not done yet, as long as the time suffices."""
    end = time.monotonic() + 60 * minutes
    results = read_results(bench.file)
    for record in results.values():
        if (record["interactions"], record["replies"]) != (bench.interactions, bench.replies):
            raise InputError(
                f"{bench.file}: {record['case']} was made with --interactions "
                f"{record['interactions']} --replies {record['replies']}. Give the same, or "
                "another --out."
            )
        if record.get("model") != shipped_model():
            raise InputError(
                f"{bench.file}: {record['case']} was made with another shipped model. One table "
                "cannot hold both: give another --out."
            )
    took = collections.defaultdict(list)  # seconds of a stage's cases
    for record in results.values():
        took[record["stage"]].append(record["wall_seconds"])
    while waiting := remaining(cases, results):
        case = waiting[0]
        if time.monotonic() + max(took[case.stage][-10:], default=0.0) > end:
            print(f"{len(waiting)} cases are left; the next, {case.name}, would take too long")
            return
        record = bench.run(case, results)
        with bench.file.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        results[case.name] = record
        took[case.stage].append(record["wall_seconds"])
        print(describe(record), flush=True)


def describe(record: Record) -> str:
    """A record as a line."""
    mark = record["marks"][-1]
    shares = "  ".join(f"{name} {mark[name]:.1%}" for name in SHARES)
    return f"{record['case']}: {shares}  kl {mark['kl']:.3f}  {record['wall_seconds']:.0f} s"


# ---------------------------------------------------------------------------------------- tables

SHARES = {
    "wanted_styles": "wanted styles",
    "all_wanted": "all wanted",
    "correct": "correct",
    "readable": "readable",
}


EXPLAINED = """# Objectives and teachers on the pocket world

Written by `benchmarks/compare_objectives.py --stage table`: {done} cases are done, {left} are left.
They are the lines of `docs/data/compare_objectives.jsonl`. Copy that file to DIR/RESULTS.jsonl, and
the program resumes from it with `--out DIR`, as long as the shipped model is the same.

Settings are those of `configs/quickstart.py` except for objective, teacher and learning rate. The
rate of each objective was tuned only with the teacher *self*, on logs of other users.
Shares are of sampled replies to held-out requests; an unreadable reply counts as wrong and has no
wanted style. KL is the divergence of the policy from the initial model over the whole vocabulary,
as a mean over the tokens that the policy generates. A model has collapsed if fewer than 90 % of its
replies are readable, or if correct answers fall by more than 10 points. Means and standard
deviations are over seeds. `docs/performance.md` says what a method costs in time and memory,
because the machine that made these tables had other work to do."""


def tables(results: Mapping[str, Record]) -> str:
    """All results as Markdown."""
    missing = remaining([case for stage in STAGES.values() for case in stage()], results)
    parts = [EXPLAINED.format(done=len(results), left=len(missing))]
    for preference in ("shipped", "loud"):
        if records := records_of(results, "compare", preference):
            parts += [
                f"## Users who want {describe_preference(preference)}",
                compare_table(records, results),
            ]
    if records := records_of(results, "stability"):
        parts += [f"## {MARKS[-1]} times the steps", stability_table(records, results)]
    if records := records_of(results, "tune"):
        parts += ["## Learning rates", tune_table(records, results)]
    return "\n\n".join(parts)


def records_of(results: Mapping[str, Record], stage: str, preference: str = "") -> list[Record]:
    return [
        record
        for record in results.values()
        if record["stage"] == stage and preference in ("", record["preference"])
    ]


def describe_preference(preference: str) -> str:
    return ", ".join(
        style if on else f"no {style}" for style, on in PREFERENCES[preference].items()
    )


def compare_table(records: Sequence[Record], results: Mapping[str, Record]) -> str:
    """A row for each method and rate: mean and standard deviation over seeds."""
    groups = collections.defaultdict(list)
    for record in records:
        groups[METHODS.index((record["objective"], record["teacher"])), record["lr"]].append(record)
    rows = []
    for (method, lr), group in sorted(groups.items()):
        objective, teacher = METHODS[method]
        marks = [record["marks"][-1] for record in group]
        row = [objective, "" if teacher == NONE else teacher, format_rate(lr) if lr else ""]
        row += [format_spread([100 * mark[name] for mark in marks], 1) for name in SHARES]
        row += [format_spread([mark["kl"] for mark in marks], 3)]
        collapsed = sum(epochs_until_collapse(record, results) is not None for record in group)
        rows.append([*row, f"{collapsed} of {len(group)}"])
    shares = [f"{name}, %" for name in SHARES.values()]
    return markdown(["objective", "teacher", "rate", *shares, "KL, nats", "collapsed"], rows)


def stability_table(records: Sequence[Record], results: Mapping[str, Record]) -> str:
    """A row for each method: measures after each number of epochs, until it collapses."""
    rows = []
    for record in sorted(records, key=lambda r: METHODS.index((r["objective"], r["teacher"]))):
        if record["objective"] == START:
            continue
        marks = {mark["epochs"]: mark for mark in record["marks"]}
        epochs = epochs_until_collapse(record, results)
        cells = [format_mark(marks[n]) if n in marks else "" for n in MARKS]
        when = f"by {epochs}x" if epochs else "no"
        teacher = "" if record["teacher"] == NONE else record["teacher"]
        rows.append([record["objective"], teacher, format_rate(record["lr"]), *cells, when])
    caption = "Wanted styles / correct / readable, %, and KL, nats, at points along one long run."
    head = ["objective", "teacher", "rate", *(f"{n}x" for n in MARKS), "collapsed"]
    return f"{caption}\n\n{markdown(head, rows)}"


def epochs_until_collapse(record: Record, results: Mapping[str, Record]) -> int | None:
    """The epochs after which a run was found to have collapsed, if it did."""
    before = start_of(record, results)
    if before is None:
        return None
    return next((m["epochs"] for m in record["marks"] if has_collapsed(m, before)), None)


def format_mark(mark: Mapping[str, float]) -> str:
    shares = " / ".join(f"{100 * mark[n]:.1f}" for n in ("wanted_styles", "correct", "readable"))
    return f"{shares}, {mark['kl']:.2f}"


def tune_table(records: Sequence[Record], results: Mapping[str, Record]) -> str:
    """Wanted styles and correct answers by objective and rate, the chosen ones bold."""
    cells: dict[tuple[str, float | None], str] = {}
    for record in records:
        mark, name = record["marks"][-1], record["objective"]
        text = f"{100 * mark['wanted_styles']:.1f} / {100 * mark['correct']:.1f}"
        chosen = record["lr"] is not None and record["lr"] == best_rate(name, results)
        cells[name, record["lr"]] = f"**{text}**" if chosen else text
    names = [name for name, _ in FIRST if any(name == n for n, _ in cells)]
    rates = sorted(RATES)
    rows = [[name, *(cells.get((name, lr), "") for lr in rates)] for name in names]
    before = f" Before: {cells[START, None]}." if (START, None) in cells else ""
    caption = f"Wanted styles / correct, %; users who want {describe_preference('tuning')}.{before}"
    return f"{caption}\n\n{markdown(['objective', *map(format_rate, rates)], rows)}"


def format_rate(lr: float) -> str:
    return f"{lr:.1e}".replace("e-0", "e-")


def format_spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation; only the mean of a single value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ------------------------------------------------------------------------------------------ main


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="logs and RESULTS.jsonl")
    add("--stage", default="all", choices=["all", *STAGES, "table"])
    add("--only", default="", metavar="REGEX", help="only cases whose names match")
    add("--list", action="store_true", help="list finished and remaining cases, and exit")
    add("--minutes", type=float, default=math.inf, help="start no case that would take longer")
    add(
        "--interactions",
        type=int,
        default=4096,
        help="interactions in the logs of one preference and seed",
    )
    add("--replies", type=int, default=2048, help="replies to measure; half as many for tuning")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    file = args.out / "RESULTS.jsonl"
    if args.stage == "table":
        print(tables(read_results(file)))
        return
    stages = STAGES if args.stage == "all" else {args.stage: STAGES[args.stage]}
    cases = [case for stage in stages.values() for case in stage()]
    cases = [case for case in cases if re.search(args.only, case.name)]
    if args.list:
        results = read_results(file)
        done, missing = ([c for c in cases if c.name in results], remaining(cases, results))
        print("\n".join([describe(results[case.name]) for case in done]))
        print("\n".join(["", *(case.name for case in missing)]))
        print(f"{len(done)} are done, {len(missing)} are left")
        return
    cli.log_to_stderr(logging.WARNING)
    memory.keep_freed()
    cli.keep_compiled()
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.out, Speaker.load(pocket.MODEL), args.interactions, args.replies)
    run_cases(bench, cases, args.minutes)


if __name__ == "__main__":
    cli.run(main)
