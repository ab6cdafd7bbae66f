"""Train a model on conversations.

    python launch/train.py --config configs/quickstart.py --workdir runs/quickstart
    python launch/train.py --config configs/offline_wildfeedback.py \\
        --workdir runs/wild --config.model.path=Qwen/Qwen3-0.6B

Set any setting of the config file with --config.KEY=VALUE. Started again with the same --workdir,
a run resumes from its last checkpoint.

Several processes make one run, each with the devices that it sees. SLURM, Open MPI and GKE say
which ones; elsewhere `launch/supervise.py` starts them, or --coordinator does with its like.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from interact_jax import (
    bucket_lock,
    card,
    cli,
    config,
    evaluation,
    finished,
    guard,
    hindsight_check,
    lock,
    memory,
    places,
    plan,
    report,
    signal,
    stage,
    store,
    train,
)
from interact_jax.cluster import processes
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.tree import picture
from interact_jax.metrics import read_log, summary_lines
from interact_jax.schema import InputError
from interact_jax.stage import Stage
from interact_jax.store import Place, Watched

log = logging.getLogger("interact_jax.launch.train")

RUN_FILES = (
    "config.json",
    "metrics.jsonl",
    "metrics.jsonl.unreadable",
    "summary.json",
    finished.NAME,
)
"""Files that a run replaces in its directory; other programs may write other files there."""


ALREADY_ENDED = (
    "This run had already ended; nothing was computed. Increase --config.steps or --config.epochs "
    "to extend it, or use another --workdir to begin a new one."
)


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The named arguments, and the --config.KEY=VALUE ones unparsed."""
    parser = cli.settings_parser(__doc__)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run writes")
    parser.add_argument("--quiet", action="store_true", help="errors and the summary only")
    cli.add_place(parser)
    return parser.parse_known_args(argv)


def main(argv: list[str] | None = None) -> None:
    args, overrides = parse(argv)
    place = cli.place_of(args)
    cli.log_as(place, args.quiet)
    cfg = config.load(args.config, overrides)
    places.check_name(f"--workdir {args.workdir}", args.workdir)
    home = store.place(args.workdir)
    if isinstance(home, Path):
        check_places(home)
    memory.keep_freed()
    cli.join(place, args.quiet)
    cli.keep_compiled(cfg.compile_cache)
    lines = STAGED[cfg.stages](cfg, home, args.quiet)
    if processes.is_first():
        cli.show(*lines)
    processes.leave()


def one_run(cfg: ConfigDict, home: Place, quiet: bool) -> list[str]:
    """Everything a run does in its directory; returns the lines that it ends with, which process 0
    has."""
    with owned(home) as (watched, kept):
        ended = read_finished(cfg, kept)
        if ended is not None:
            return [*ended, ALREADY_ENDED]
        run = start(cfg, kept)
        if watched is not None:
            watched.check()
            remove_leftovers(run.workdir)
        folder = run.workdir / "report"
        if not quiet and processes.is_first() and run.dataset is not None:
            cli.show(picture(run.dataset.trees[0][0], run.model.chat.decode))
        show_signal(run, folder)
        check_hindsight(run)
        before = evaluation.measure_start(run, folder / "before.json")
        train.loop(run)
        summary = train.finish(run)
        after = evaluation.measure_run(run, folder / "after.json")
        if not processes.is_first():
            return []
        summary += summary_lines(run.workdir / "metrics.jsonl")
        collapse = guard.warning(evaluation.signs_of_collapse(run, after or {}))
        if run.held_out is not None:
            summary.append(run.held_out.describe())
        show_replies(run, folder)
        page = report.write_run_report(
            folder,
            metrics_file=run.workdir / "metrics.jsonl",
            shown=run.method.shown,
            settings=config.to_json(run.config),
            interactions=train.totals(run)["interactions"],
            before=before,
            after=after,
            notes=summary,
        )
        write_summary(run, before, after, collapse)
        # Again, with the measures.
        card.update(run.workdir, run.home / "export", int(run.state.step))
        lines = [
            *summary,
            f"report: {run.home / 'report' / page.name}",
            *report.before_after_lines(before, after),
        ]
        lines += [collapse] if collapse else []
        finished.write(cfg, kept, lines)
        kept.push()
        return lines


def aloe(cfg: ConfigDict, home: Place, quiet: bool) -> list[str]:
    """Conversations, trainings, measures (`interact_jax.aloe`)."""
    from interact_jax.aloe import whole  # what it takes, no other run does

    if not isinstance(home, Path):
        raise InputError(f"--workdir {home}: stages=aloe writes to a directory of this machine.")
    return whole.learn(cfg, home, lambda settings, folder: one_run(settings, folder, quiet))


STAGED = {"none": one_run, "aloe": aloe}
"""What a run does, by the setting `stages`."""


@contextlib.contextmanager
def owned(home: Place) -> Iterator[tuple[Watched | None, Stage]]:
    """Hold the lock of a run, which process 0 does for all: what the others watch is None. Also
    gives its small files, as they are once it is held."""
    with contextlib.ExitStack() as stack:
        watched: Watched | None = None
        if processes.is_first():
            if isinstance(home, Path):
                watched = stack.enter_context(lock.hold(home))
            else:
                watched = stack.enter_context(bucket_lock.hold(home))
        processes.meet("directory free")
        yield watched, stack.enter_context(stage.open(home, watched))


def read_finished(cfg: ConfigDict, kept: Stage) -> list[str] | None:
    """The lines that the run has ended with, for which process 0 looks; None where there is
    something to do."""

    def look() -> list[str] | None:
        if (lines := finished.read(cfg, kept)) is not None:
            remove_leftovers(kept.folder)
        return lines

    ended: list[str] | None = processes.by_first("finished", look, processes.LONG_SECONDS)
    return ended


def start(cfg: ConfigDict, kept: Stage) -> train.Run:
    """`train.start`; if the run does not fit into memory, the error says what would make it fit."""
    try:
        return train.start(cfg, kept)
    except memory.DoesNotFit as error:
        if processes.are_several():  # which would all have to look together
            raise InputError(f"{error} {memory.ADVICE}") from error
        log.info("%s Looking for settings with which it does.", error)
        change, _ = plan.first_that_fits(cfg, plan.work_of(cfg), plan.HERE)
        advice = (
            f"It fits with {plan.format_change(change)}" if change else memory.ADVICE.rstrip(".")
        )
        raise InputError(f"{error} {advice}.") from error


def check_places(workdir: Path) -> None:
    """Check at the start that everything can be written at the end. Raises InputError."""
    for place in (workdir, *(workdir / name for name in ("report", "tensorboard", "checkpoints"))):
        places.check_directory(str(place), place)
    if workdir.is_dir():
        for place in (workdir / "metrics.jsonl", workdir / "summary.json"):
            places.check_output(str(place), place)


def remove_leftovers(workdir: Path) -> None:
    """What a process was writing when it was killed."""
    places.remove_partial(workdir, *RUN_FILES)
    places.remove_partial(workdir / "report")


def check_hindsight(run: train.Run) -> None:
    """Warn if the model that is to learn from hindsight does not use it."""
    cfg = run.config
    if not cfg.check_hindsight or int(run.state.step) > 0 or run.method.recipe != "hindsight":
        return
    if run.dataset is None:
        return
    check = hindsight_check.check_hindsight(
        run.model.decoder,
        run.state.params,
        run.dataset.conversations,
        run.model.chat,
        EncodeSettings.of(cfg),
        run.model.mesh,
        most=cfg.check_hindsight,
        seed=cfg.seed,
        sharing=cfg.sharing,
    )
    if check.pairs:
        level = logging.WARNING if check.usable is False else logging.INFO
        for line in check.lines():
            log.log(level, "%s", line)


def write_summary(
    run: train.Run,
    before: Mapping[str, float] | None,
    after: Mapping[str, float] | None,
    collapse: str,
) -> None:
    """Write `summary.json`: measures, settings, and the length of the run."""
    lines = read_log(run.workdir / "metrics.jsonl")
    summary = {
        "before": before or {},
        "after": after or {},
        "collapse": collapse,  # empty: no sign of it
        "settings": config.to_json(run.config),
        "step": int(run.state.step),  # the exported one
        "steps": len(lines),
        "interactions": train.totals(run)["interactions"],
        "seconds": round(sum(line["seconds"] for line in lines), 3),
    }
    places.write(run.workdir / "summary.json", json.dumps(summary, indent=2) + "\n")


def show_replies(run: train.Run, folder: Path) -> None:
    """Write `replies.html`: the model's replies to held-out prompts, before and after the run."""
    held, now = run.held_out, run.kept.get("held_out", {}).get("replies")
    before = held.first_replies() if held else None
    if held is None or not before or not now:
        return
    prompts = held.prompts
    rows = [
        report.Row(prompt.x, old, new, prompt.o)
        for prompt, old, new in zip(prompts, before, now, strict=True)
    ]
    report.write_replies_page(folder, rows, len(rows))


def show_signal(run: train.Run, folder: Path) -> None:
    """Write `signal.html`: the first replies, scored by the model before training."""
    most = run.config.report.interactions
    if not most or int(run.state.step) > 0 or run.method.recipe != "hindsight":
        return
    if run.dataset is None:  # online, nothing has been said yet
        return
    trees = [tree for trees in run.dataset.trees[:most] for tree in trees]
    scored = signal.score_trees(
        run.model.decoder, run.state.params, trees, run.model.mesh, sharing=run.config.sharing
    )[:most]
    if not processes.is_first():
        return
    interactions = signal.interactions_by_id(run.dataset)
    data = run.config.data.mixture or run.config.data.path
    title = f"The signal before training: {run.config.model.path} on {data}"
    report.write_signal_report(
        folder, scored, interactions, run.model.chat, title=title, of_run=True
    )


if __name__ == "__main__":
    cli.run(main, memory.ADVICE)
