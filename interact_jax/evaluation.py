"""Evaluation of a run, before its first step, during training and after.

On conversations held out of any log (`held_out`) and, where the data is the pocket world's, by
checking sampled replies with a program (`interact_jax.pocket`).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import best, guard, places, progress, sharding
from interact_jax.cluster import processes
from interact_jax.config import data_of, flatten
from interact_jax.data.chat import ChatFormat
from interact_jax.generation import NotFinite, SamplingParams, requests_for
from interact_jax.generation.chat_model import text_of
from interact_jax.generation.local import make_sampler
from interact_jax.json_files import read_json
from interact_jax.models.decoder import Decoder
from interact_jax.online.feed import is_online
from interact_jax.online.prompts import pocket_system
from interact_jax.online.schedule import parse_schedule, phase_at
from interact_jax.pocket import measure as pocket_measure
from interact_jax.pocket import world
from interact_jax.schema import Message

log = logging.getLogger(__name__)

OTHER_DATA = (
    "the held-out data differs from what was measured before training (other data, or other "
    "settings of evaluation): before and after cannot be compared"
)
OTHER_REPLIES = (
    "evaluation.replies: %d replies were measured before training, and %d are now; some of the "
    "difference in their shares is chance"
)
ROWS = 256  # replies at a time
Measure = Callable[
    [Decoder, Any, ChatFormat, int, int, Sequence[world.Styles], Sequence[Message]],
    dict[str, float],
]
LOGGED = (pocket_measure.LOGGED_PREFERENCE,)


def measure_pocket(
    decoder: Decoder,
    params: Any,
    chat: ChatFormat,
    replies: int,
    seed: int,
    preferences: Sequence[world.Styles] = LOGGED,
    system: Sequence[Message] = (),
) -> dict[str, float]:
    """Shares over `replies` sampled answers (temperature 1) to held-out requests of the pocket
    world: wanted styles, replies that have all of them, correct answers, readable replies; the mean
    over the `preferences`, by default that of the shipped logs' users. The answers depend on the
    seed, and not on the preferences. `system` stands before every request.

    Raises InputError, before anything is sampled, for a preference that `world` does not know.
    """
    preferences = [world.check_preference(preference) for preference in preferences]
    requests = world.held_out_requests(replies, seed)
    prompts = [chat.prompt([*system, Message("user", request.text)]) for request in requests]
    sampler = make_sampler(decoder, chat, [chat.eos_id], sharding.mesh_of(params), rows=ROWS)
    sampler.load(params)
    completions = sampler.sample(
        requests_for(prompts, SamplingParams(pocket_measure.MAX_NEW_TOKENS), seed)
    )
    texts = [text_of(completion, chat) for completion in completions]
    shares = [pocket_measure.measure(texts, requests, wanted) for wanted in preferences]
    return {
        name: sum(each[name] for each in shares) / len(shares)
        for name in shares[0]
        if name != "replies"
    }


EVALUATIONS: dict[str, Measure] = {"pocket": measure_pocket}
"""By the name of the setting `evaluation.name`, where that is not "auto" or "none"."""


def measure_for(config: Any) -> Measure | None:
    """The measure of sampled replies: "auto" recognises the shipped logs and the requests of their
    world, and nothing else."""
    name = config.evaluation.name
    return EVALUATIONS.get(data_of(flatten(config)) if name == "auto" else name)


def interactions_at_end(run: Any) -> int:
    """How many interactions an online run will have learned from before its last step."""
    batch, turns = run.config.batch, run.config.online.turns
    return (run.total_steps - 1) * (batch.interactions or batch.conversations * turns)


def preferences_at(run: Any, interactions: int) -> list[world.Styles]:
    """What the users want of replies in the pocket world: those of the shipped logs or, in an
    online run, those that it has after so many interactions, by its schedule."""
    cfg = run.config
    if not cfg.online.users:
        return list(LOGGED)
    schedule = parse_schedule(cfg.online.users, cfg.online.schedule)
    phase = phase_at(schedule, interactions)
    return [dict(want.preference) for want in phase.users if want.preference]


def measure_replies(run: Any, interactions: int) -> dict[str, float]:
    """The shares of sampled replies that are as the users want them after so many interactions, the
    mean over the users; empty where that cannot be checked. Measured at most once per step.

    Raises NotFinite where no reply can be sampled from the model before training."""
    measure, model, cfg = measure_for(run.config), run.model, run.config
    preferences = preferences_at(run, interactions) if measure is not None else []
    if measure is None or not preferences:
        return {}
    step, replies = int(run.state.step), cfg.evaluation.replies
    of = {"step": step, "replies": replies, "wanted": preferences}
    last = run.kept.get("checked", {})
    if {name: last.get(name) for name in of} != of:
        try:
            with sharding.on(model.mesh):
                values = measure(
                    *(model.decoder, run.state.params, model.chat, replies, cfg.seed, preferences),
                    pocket_system(cfg, model.chat) if is_online(cfg) else (),
                )
        except NotFinite as error:
            if step == 0:
                raise
            log.warning("replies cannot be checked any more: %s", error)
            return {}
        run.kept["checked"] = of | {"values": values}
    return dict(run.kept["checked"]["values"])


def measure_start(run: Any, file: Path) -> Mapping[str, float] | None:
    """Measure a `train.Run` before its first step; a resumed run reads that from its checkpoint.

    None where nothing is, or was, to be measured. Raises InputError where `checkpoint.best` names a
    measure that is not available.
    """
    if (held := run.held_out) is not None:
        if int(run.state.step) > 0:
            held.resume(run.workdir)
        run.kept["measuring_on"] = held.digest
        if run.kept.setdefault("measured_on", held.digest) != held.digest:
            log.warning(OTHER_DATA)
    if measure_for(run.config) is not None:
        replies = run.config.evaluation.replies
        if (then := run.kept.setdefault("measured_replies", replies)) != replies:
            log.warning(OTHER_REPLIES, then, replies)
    if int(run.state.step) == 0:
        run.kept["before"] = measure_run(run, file)
    elif "before" not in run.kept:  # an earlier version kept it only in the file
        run.kept["before"] = read_json(file) if file.is_file() else None
    best.check(run.config, run.kept["before"])
    return run.kept["before"]


@progress.of("measuring the model")
def measure_run(run: Any, file: Path) -> dict[str, float] | None:
    """Measure a `train.Run` in its current state and write the result to `file`; None where nothing
    is to be measured. Measures that are not finite are left out, with a warning.

    Raises NotFinite where no reply can be sampled from the model before training."""
    # Before and after by the same users, those at the end.
    values = measure_replies(run, interactions_at_end(run)) | measure_held_out(run)
    if not values:
        return None
    odd = [name for name, value in values.items() if not math.isfinite(value)]
    if odd:
        log.warning("%s: without %s, not finite", file.name, ", ".join(odd))
    values = {name: value for name, value in values.items() if name not in odd}
    if processes.is_first():
        file.parent.mkdir(parents=True, exist_ok=True)
        places.write(file, json.dumps(values, indent=2) + "\n")
    return values


@progress.of("measuring on held-out conversations")
def measure_held_out(run: Any) -> dict[str, float]:
    """Measure the current model on held-out conversations; the sampled replies are kept with the
    run. Measured at most once per step, on the same data. Measures that are not finite are NaN."""
    if run.held_out is None:
        return {}
    step = int(run.state.step)
    of = {"step": step, "data": run.held_out.digest}
    last = run.kept.get("held_out", {})
    if {name: last.get(name) for name in of} != of:
        begin = None if step else run.workdir
        values, replies = run.held_out.measure(run.state.params, begin)
        odd = [name for name, value in values.items() if not math.isfinite(value)]
        if odd:
            log.warning("step %d: not finite: %s", step, ", ".join(odd))
        strict = {name: None if name in odd else value for name, value in values.items()}
        run.kept["held_out"] = of | {"values": strict, "replies": replies}
    kept = run.kept["held_out"]["values"]
    return {name: math.nan if value is None else value for name, value in kept.items()}


def measure_step(run: Any, step: int, due: bool) -> dict[str, float]:
    """The held-out measures for the log at a step, where they are `due`, or by `evaluation.every`;
    at the first step also those taken before it. Online, what users want of replies as well."""
    online, before = is_online(run.config), run.kept.get("before") or {}
    if run.held_out is None and not online:
        return {}
    first = {f"before_{k}": v for k, v in before.items() if online or k.startswith("held_out_")}
    every = run.config.evaluation.every
    now: dict[str, float] = {}
    if due or (every and step % every == 0):
        done = run.source.totals()["interactions"]
        now = (measure_replies(run, done) if online else {}) | measure_held_out(run)
    return (first if step == 1 else {}) | now


def signs_of_collapse(run: Any, now: Mapping[str, float]) -> dict[str, str]:
    """What `guard.signs` sees in these measures, unless the run has no guard."""
    before = run.kept.get("before") or {}
    return guard.signs(before, now) if run.config.evaluation.guard != "none" else {}


def warn_of_collapse(run: Any, now: Mapping[str, float]) -> str:
    """Warn where the model shows signs of collapse; returns the reason if the run is to stop."""
    signs = signs_of_collapse(run, now)
    reported = run.kept.get("signs", [])
    new = {sign: text for sign, text in signs.items() if sign not in reported}
    run.kept["signs"] = sorted({*reported, *signs})
    if run.config.evaluation.guard == "stop" and signs:
        return guard.COLLAPSE.format("; ".join(signs.values()))
    if new:  # each is reported once
        log.warning("step %d: %s", int(run.state.step), guard.warning(new))
    return ""
