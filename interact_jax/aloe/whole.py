"""The whole of ALOE as one run: conversations, the trainings on them, and what came of it.

    lines = learn(cfg, Path("runs/aloe"), train)

RUN/conversations   what the untrained model said to personas, with and without a hint
RUN/sft, RUN/dpo    the trainings, each a run of its own; the second begins where the first ended
RUN/cache           what was said when the models were measured, so that nothing is said twice
RUN/report, RUN/results.json, RUN/summary.json, RUN/export

Everything goes on where it was, when the same command is given again. The personas that measure
are not those that the conversations are with.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from interact_jax import config, lock, places
from interact_jax.aloe import converse, pocket_cast
from interact_jax.aloe.benchmark import FIELDS, ModelReplier, Talk, play
from interact_jax.aloe.page import write_page
from interact_jax.aloe.results import lines_of, results, table
from interact_jax.cluster import processes
from interact_jax.generation.engine import SamplingParams
from interact_jax.generation.local import Samplers
from interact_jax.judges.local import LoadedAtUse
from interact_jax.judges.sides import open_weights
from interact_jax.judges.statistics import SETTINGS as STATISTICS
from interact_jax.judges.store import Store
from interact_jax.schema import InputError
from interact_jax.staged import DPO, NONE, SFT

log = logging.getLogger(__name__)

BEFORE = "before"
TALKS = "conversations"
ROWS = 128  # replies that are sampled at a time
Train = Callable[[ConfigDict, Path], Sequence[str]]


def learn(cfg: ConfigDict, home: Path, train: Train) -> list[str]:
    """Make, train and measure in the directory `home`; returns the lines to end with. `train` does
    one run of given settings in a directory.

    Raises InputError for settings or a directory that do not fit.
    """
    if processes.are_several():
        raise InputError("stages=aloe is a run of one process. Start it without a cluster.")
    check(cfg, home)
    begun = time.monotonic()
    with lock.hold(home):
        if (home / "config.json").exists():
            config.check_resume(cfg, home / "config.json")
        config.write(cfg, home / "config.json")
        samplers = Samplers(ROWS)
        made = make_conversations(cfg, home / TALKS, samplers)
        models = {BEFORE: cfg.model.path}
        for name, settings in trainings(cfg, home):
            log.info("%s: %s", name, home / name)
            for line in train(settings, home / name):
                log.info("%s: %s", name, line)
            done = ", ".join([*(each for each in models if each != BEFORE), name])
            models[done] = str(home / name / "export")
        played = measure(cfg, home, models, samplers)
        found = {
            "cases": cfg.aloe.cases,
            "user": "the pocket world",
            "judge": "the pocket world's checkers",
            "settings": {**config.to_json(cfg), **dataclasses.asdict(params_of(cfg))},
            **results(played, cfg.aloe.rounds, STATISTICS["bootstrap"].default, cfg.seed),
        }
        places.write(home / "results.json", json.dumps(found, indent=2) + "\n")
        page = write_page(home / "report", found, list(lines_of(played)))
        _hand_over(Path(models[list(models)[-1]]), home / "export")
        summary = summary_of(cfg, found, time.monotonic() - begun)
        places.write(home / "summary.json", json.dumps(summary, indent=2) + "\n")
    return [
        *converse.lines_of(made),
        *table(found["models"]),
        *found["notes"],
        f"report: {page}",
    ]


def check(cfg: ConfigDict, home: Path) -> None:
    """Raise InputError for settings that the stages do not heed, and for those that a training
    would refuse when the conversations are made."""
    flat = config.flatten(cfg)
    own = ("start_from", "data.path", "data.mixture", "online.prompts", "online.users")
    if given := [name for name in own if flat[name]]:
        raise InputError(
            f"{given[0]}={flat[given[0]]!r}: with stages=aloe the data are the conversations that "
            "the run makes, and the model that of model.path. Leave it out."
        )
    for _, settings in trainings(cfg, home):
        config.check(settings)


# ------------------------------------------------------------------------------- the stages


def make_conversations(cfg: ConfigDict, folder: Path, samplers: Samplers) -> dict[str, Any]:
    """Conversations of the untrained model with personas; returns their summary."""
    folder.mkdir(parents=True, exist_ok=True)
    number = cfg.aloe.conversations
    people = pocket_cast.personas(number, cfg.seed)
    side = open_weights(cfg.model.path, cfg.model.dtype)
    model = LoadedAtUse(side, samplers.of(side.model))
    cast = pocket_cast.PocketCast(model, cfg.seed, weights=side.digest, sampling=params_of(cfg))
    plan = converse.Plan(number, cfg.aloe.rounds, cfg.aloe.pairs, cfg.seed)
    made = converse.converse(cast, people.__getitem__, ["pocket", number], plan, folder)
    samplers.unload()
    return made


def trainings(cfg: ConfigDict, home: Path) -> Iterator[tuple[str, ConfigDict]]:
    """The name and the settings of every training: each begins with the model that the one before
    exported."""
    path = cfg.model.path
    for name in cfg.aloe.train.split(","):
        settings = ConfigDict(cfg.to_dict())
        settings.stages, settings.aloe = NONE, ConfigDict(config.default().aloe.to_dict())
        settings.model.path = path
        settings.data.path = str(home / TALKS / converse.DONE)
        settings.evaluation.name = "none"
        settings.objective.name = name
        settings.data.recipe = {SFT: "chosen", DPO: "pairs"}[name]
        if name == SFT:
            settings.optim.lr = cfg.aloe.sft_lr
            settings.epochs, settings.steps = cfg.aloe.sft_epochs, 0
        yield name, settings.lock()
        path = str(home / name / "export")


def measure(
    cfg: ConfigDict, home: Path, models: Mapping[str, str], samplers: Samplers
) -> dict[str, list[Talk]]:
    """Conversations of every model with the same held-out personas, judged."""
    cases = pocket_cast.personas(cfg.aloe.cases, cfg.seed, held_out=True)
    cast = pocket_cast.PocketCast(seed=cfg.seed, held_out=True)
    played = {}
    with Store.open(home / "cache" / "turns.jsonl", *FIELDS) as store:
        for name, path in models.items():
            side = open_weights(path, cfg.model.dtype)
            model = LoadedAtUse(side, samplers.of(side.model))
            replier = ModelReplier(name, model, params_of(cfg), {"weights": side.digest})
            played[name] = play(
                cast, replier, cases, cfg.aloe.rounds, store, cfg.seed, portion=ROWS
            )
            samplers.unload()
    return played


def params_of(cfg: ConfigDict) -> SamplingParams:
    """How replies are sampled, in conversations and when models are measured."""
    return SamplingParams(cfg.aloe.new_tokens)


def _hand_over(source: Path, export: Path) -> None:
    """The last training's export, once more under the run's own name."""
    fresh = export.with_name(f"{export.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh, copy_function=os.link)
    shutil.rmtree(export, ignore_errors=True)
    fresh.rename(export)


# ------------------------------------------------------------------------------- what came of it


def summary_of(cfg: ConfigDict, found: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """`summary.json`: measures before and after, and of what was between."""
    by_name = {model["name"]: measures_of(model) for model in found["models"]}
    last = found["models"][-1]["name"]
    return {
        "before": by_name[BEFORE],
        "after": by_name[last],
        "stages": by_name,
        "settings": config.to_json(cfg),
        "interactions": cfg.aloe.conversations * cfg.aloe.rounds,
        "seconds": round(seconds, 3),
    }


def measures_of(model: Mapping[str, Any]) -> dict[str, float | None]:
    """The measures of a model, by name."""

    def value(estimate: Mapping[str, float] | None) -> float | None:
        return None if estimate is None else estimate["value"]

    return {
        "alignment_first": value(model["al"][0]),
        "alignment_last": value(model["al"][-1]),
        "improvement_rate": value(model["ir"]),
        "normalised_improvement_rate": value(model["n_ir"]),
        "correct": value(model["right"]),
    }
