"""What the paper claims of learning online, measured on the pocket world.

    python benchmarks/claims.py --out runs/claims                  all cases, then docs/claims.md
    python benchmarks/claims.py --out runs/claims --list           done, and left
    python benchmarks/claims.py --out runs/claims --only '^flip/.*/recommended/' --minutes 30
    python benchmarks/claims.py --out runs/claims --page           the page of what is done

    personalise  users of one preference talk to the shipped model
    flip         after some time they want the opposite of each style
    sequence     three preferences in turn: later users do not care for the earlier styles
    growing      the same three, but later users want the earlier styles as well
    unrelated    follow-ups have nothing to do with the replies

Each in the mode that we recommend (configs/online_pocket.py) and in the paper's: its objective, as
configs/online_paper.py has it, and its optimiser at a pace for this model. Both answer the same
held-out requests at temperature 1. A case is one line of DIR/RESULTS.jsonl, written when it is
finished; started again, the program continues with the next.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # programs find one another there

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

from benchmarks import claims_page
from benchmarks.claims_asked import MODES, PAPER
from benchmarks.compare_objectives import read_results, shipped_model
from interact_jax import cli, config, memory, places, pocket, train
from interact_jax.arguments import Parser
from interact_jax.judges.judge import FIRST, SECOND, Comparison
from interact_jax.judges.pocket_judge import PocketJudge
from interact_jax.online.schedule import parse_schedule, wants_of
from interact_jax.pocket import measure, world
from interact_jax.pocket.speaker import Speaker
from interact_jax.schema import InputError, Message

ROOT = Path(__file__).resolve().parents[1]

# ------------------------------------------------------------------------------ what is measured

PREFERENCES = (
    "emoji,-sentence,polite",
    "sentence,polite,emoji,-question",  # of the shipped logs
    "capitals,exclamation,question,-polite",
    "capitals,exclamation,question",
    "exclamation,sentence",
    "-emoji,-question,-sentence",
)
FLIPPED = PREFERENCES[:2]
SEQUENCE = ("polite,emoji", "sentence,-question", "capitals,exclamation")
SEEDS = (0, 1, 2)  # of prompts, users, sampling, and held-out requests
PHASE = 250  # interactions, after which users change their minds
EVERY = 50  # interactions between measurements
PAPER_PACE = {
    "optim.lr": 2.6e-4,  # the paper's 5e-6 is for 4 billion parameters, these are a million
    "batch.interactions": 5,  # its 16 would leave AdamW 16 steps
    "steps": 50,
}
PAPER_SETTINGS = re.compile(r"objective\.|teacher\.|hindsight$|optim\.(?!lr$)|limits\.")
SHOWN = 6  # replies of every case that are kept
QUICK = {"replies": 32, "phase": 20, "every": 10}


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the results. `users` and `schedule` are settings (`online.*`)."""

    kind: str
    users: str
    schedule: str
    phases: int
    mode: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.users}/{self.mode}/{self.seed}"


def cases() -> list[Case]:
    """All cases: the mode that we recommend first, all of one seed before the next."""
    flips = [(users, f"{PHASE}: {opposite(users)}") for users in FLIPPED]
    growing = [",".join(SEQUENCE[: count + 1]) for count in range(len(SEQUENCE))]
    return [
        Case(kind, users, schedule, phases, mode, seed)
        for mode in MODES
        for seed in SEEDS
        for kind, users, schedule, phases in (
            *(("personalise", users, "", 1) for users in PREFERENCES),
            *(("flip", users, schedule, 2) for users, schedule in flips),
            ("sequence", SEQUENCE[0], in_turn(SEQUENCE), len(SEQUENCE)),
            ("growing", SEQUENCE[0], in_turn(growing), len(SEQUENCE)),
            *(("unrelated", users, "", 1) for users in FLIPPED),
        )
    ]


def opposite(users: str) -> str:
    """ "emoji,-sentence" -> "-emoji,sentence"."""
    return ",".join(
        style.removeprefix("-") if style[0] == "-" else f"-{style}" for style in users.split(",")
    )


def in_turn(preferences: Sequence[str]) -> str:
    """The schedule of these preferences, of which the first is there from the start."""
    return "; ".join(f"{PHASE * n}: {users}" for n, users in enumerate(preferences) if n)


def settings(case: Case, phase: int = PHASE) -> Any:
    """The settings of a case; `phase` shortens it for a trial."""
    schedule = re.sub(r"\d+(?=:)", lambda start: str(int(start[0]) * phase // PHASE), case.schedule)
    changed: dict[str, Any] = {
        "online.users": case.users,
        "online.schedule": schedule,
        "online.unrelated": case.kind == "unrelated",
        "evaluation.name": "none",  # measured here, with all preferences of the schedule
        "evaluation.prompts": 0,
        "evaluation.every": 10,
        "report.interactions": 0,
        "checkpoint.every": 1_000_000,  # only at the end
        "seed": case.seed,
    }
    if case.mode == PAPER:
        paper = config.flatten(config.load("online_paper"))
        changed |= {name: value for name, value in paper.items() if PAPER_SETTINGS.match(name)}
        changed |= PAPER_PACE
    file = str(ROOT / "configs" / "online_pocket.py")
    return config.load(file, [f"{name}={value}" for name, value in changed.items()])


# --------------------------------------------------------------------------------------- measure


@dataclasses.dataclass
class Bench:
    """What all cases have in common: the shipped model, how many replies are measured, how long a
    phase is and how far apart the measurements are."""

    speaker: Speaker
    replies: int
    phase: int = PHASE
    every: int = EVERY
    programs: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        return {"replies": self.replies, "phase": self.phase, "every": self.every}

    def texts(self, params: Any, seed: int) -> list[str]:
        """Replies to the held-out requests of a seed."""
        speaker = self.speaker.with_params(params)
        prompts = [
            speaker.chat.prompt([Message("user", request.text)]) for request in self.requests(seed)
        ]
        return [speaker.text(completion) for completion in speaker.replies(prompts, seed)]

    def requests(self, seed: int) -> list[world.Request]:
        return world.held_out_requests(self.replies, seed)

    def run(self, case: Case) -> dict[str, Any]:
        """Play, train and measure one case."""
        began, cfg = time.perf_counter(), settings(case, self.phase)
        schedule = parse_schedule(cfg.online.users, cfg.online.schedule)
        wants = {name: dict(want.preference) for name, want in wants_of(schedule).items()}
        requests = self.requests(case.seed)
        first = self.texts(self.speaker.params, case.seed)
        marks, last = [], first
        for interactions, params in self.train(case, cfg):
            last = self.texts(params, case.seed)
            marks.append({"interactions": interactions, **compare(last, first, requests, wants)})
        marks.insert(0, {"interactions": 0, **compare(first, first, requests, wants)})
        shown = zip([request.text for request in requests], first, last, strict=True)
        return {
            "case": case.name,
            **vars(case),
            **self.sizes,
            "settings": digest(cfg),
            "model": shipped_model(),
            "wants": list(wants),
            "marks": marks,
            "shown": [list(texts) for texts, _ in zip(shown, range(SHOWN), strict=False)],
            "seconds": round(time.perf_counter() - began, 1),
        }

    def train(self, case: Case, cfg: Any) -> Iterator[tuple[int, Any]]:
        """(interactions, parameters) whenever it is time to measure."""
        step = cfg.batch.interactions
        cfg = cfg.copy_and_resolve_references()
        cfg.steps = -(-case.phases * self.phase // step)
        with tempfile.TemporaryDirectory() as workdir:
            run = train.start(cfg, workdir)
            # Seed and users do not enter these, nor does the length of a run at a constant rate.
            assert cfg.optim.schedule == "constant" and not cfg.optim.warmup_fraction
            programs = (run.differentiate, run.add, run.update)
            run.differentiate, run.add, run.update = self.programs.setdefault(case.mode, programs)
            for mark in range(self.every, case.phases * self.phase + 1, self.every):
                run.total_steps = round(mark / step)
                train.loop(run)
                yield train.totals(run)["interactions"], run.state.params
            run.checkpoints.close()


def compare(
    texts: Sequence[str],
    before: Sequence[str],
    requests: Sequence[world.Request],
    wants: Mapping[str, world.Styles],
) -> dict[str, Any]:
    """Measures of replies: of themselves, and by each preference also next to those from before."""
    by = {name: measure.measure(texts, requests, want) for name, want in wants.items()}
    shares = next(iter(by.values()))
    return {
        "correct": round(shares["correct"], 5),
        "readable": round(shares["readable"], 5),
        "wanted": {name: round(own["wanted_styles"], 5) for name, own in by.items()},
        "all_wanted": {name: round(own["all_wanted"], 5) for name, own in by.items()},
        "wins": {name: win_rate(texts, before, requests, want) for name, want in wants.items()},
    }


def win_rate(
    texts: Sequence[str],
    before: Sequence[str],
    requests: Sequence[world.Request],
    preference: world.Styles,
) -> float | None:
    """The share of comparisons with the replies from before that are won; ties do not count. None
    where there are only ties."""
    verdicts = PocketJudge(preference).compare(
        [
            Comparison((Message("user", request.text),), new, old)
            for request, new, old in zip(requests, texts, before, strict=True)
        ]
    )
    won, lost = (sum(v.choice == choice for v in verdicts) for choice in (FIRST, SECOND))
    return round(won / (won + lost), 5) if won + lost else None


LATER = {"data.cache": "", "data.mapping": "", "data.mixture": "", "mesh.slices": 1}
"""Settings that are newer than published results, with the value that the runs then had."""


def digest(cfg: Any) -> str:
    """What identifies the settings of a case, those of LATER aside where they change nothing."""
    flat = {name: value for name, value in config.flatten(cfg).items() if LATER.get(name) != value}
    text = json.dumps(flat, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# ------------------------------------------------------------------------------------------ main


def check_results(
    file: Path, results: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]
) -> None:
    """Raise InputError where results were made with other sizes, by other configs or from another
    shipped model: one table cannot hold both."""
    for case in cases():
        record = results.get(case.name)
        if record is None:
            continue
        made = {"settings": digest(settings(case, sizes["phase"])), "model": shipped_model()}
        wanted = {**sizes, **made}
        found = {name: record.get(name) for name in wanted}
        if found != wanted:
            other = ", ".join(name for name in wanted if wanted[name] != found[name])
            raise InputError(
                f"{file}: {case.name} was made with other {other}: {found}, now {wanted}. "
                "Take another --out, or delete that line."
            )


def run_cases(
    bench: Bench,
    waiting: Sequence[Case],
    results: dict[str, dict[str, Any]],
    file: Path,
    minutes: float,
) -> None:
    """Run the cases and add them to the results, as long as the time suffices."""
    end = time.monotonic() + 60 * minutes
    per_phase = 0.0  # seconds that a phase took, at most
    for left, case in zip(range(len(waiting), 0, -1), waiting, strict=True):
        if time.monotonic() + per_phase * case.phases > end:
            print(f"{left} cases are left; the next, {case.name}, would take too long")
            return
        results[case.name] = record = bench.run(case)
        lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in results.values())
        places.write(file, "".join(lines))  # whole, so that no line is ever half a line
        per_phase = max(per_phase, record["seconds"] / case.phases)
        print(describe(record), flush=True)


def describe(record: Mapping[str, Any]) -> str:
    """A record as a line: by every preference, the shares from the first mark to the last."""
    marks = record["marks"]
    wanted = "  ".join(
        f"{name}: {' '.join(format(100 * mark['wanted'][name], '.0f') for mark in marks)}"
        for name in record["wants"]
    )
    correct = f"{marks[0]['correct']:.1%} -> {marks[-1]['correct']:.1%}"
    return f"{record['case']}: {wanted}  correct {correct}  {record['seconds']:.0f} s"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where RESULTS.jsonl is")
    add("--only", default="", metavar="REGEX", help="only cases whose names match")
    add("--quick", action="store_true", help="a trial: phases of 20 interactions, 32 replies")
    add("--list", action="store_true", help="list finished and remaining cases, and exit")
    add("--page", action="store_true", help="write the page of what is done, and exit")
    add("--docs", type=Path, default=ROOT / "docs", metavar="DIR", help="where the page goes")
    add("--minutes", type=float, default=math.inf, help="start no case that would take longer")
    add("--replies", type=int, default=512, help="replies in a measurement")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    file = args.out / "RESULTS.jsonl"
    results = read_results(file)
    sizes = QUICK if args.quick else {"replies": args.replies, "phase": PHASE, "every": EVERY}
    check_results(file, results, sizes)
    chosen = [case for case in cases() if re.search(args.only, case.name)]
    waiting = [case for case in chosen if case.name not in results]
    if args.list:
        done = [describe(results[case.name]) for case in chosen if case.name in results]
        print("\n".join([*done, "", *(case.name for case in waiting)]))
        print(f"{len(done)} are done, {len(waiting)} are left")
        return
    if not args.page:
        cli.log_to_stderr(logging.ERROR)
        memory.keep_freed()
        cli.keep_compiled()
        bench = Bench(Speaker.load(pocket.MODEL), **sizes)
        args.out.mkdir(parents=True, exist_ok=True)
        run_cases(bench, waiting, results, file, args.minutes)
    left = sum(case.name not in results for case in cases())
    page = claims_page.write(list(results.values()), left, args.docs)
    print(f"page: {page}")


if __name__ == "__main__":
    cli.run(main)
