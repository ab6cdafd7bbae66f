"""Did it work? What a run is measured by, before its first step, during and after.

On conversations that are held out of any log (`held_out`), and where the data is the pocket world's
by what a program makes of sampled replies (`interact_jax.pocket`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interact_jax import best, guard, places, progress, sharding
from interact_jax.data.chat import ChatFormat
from interact_jax.generation.sampler import Sampler
from interact_jax.json_files import read_json
from interact_jax.models.decoder import Decoder
from interact_jax.pocket import measure as pocket_measure
from interact_jax.pocket import world
from interact_jax.schema import Message

log = logging.getLogger(__name__)

SHOWS = "the model shows signs of collapse: {}."
OTHERS = (
    "what is held out is not what was measured before training (other data, or other settings of "
    "evaluation): before and after cannot be compared"
)
Measure = Callable[[Decoder, Any, ChatFormat, int, int], dict[str, float]]


def pocket(
    decoder: Decoder, params: Any, chat: ChatFormat, replies: int, seed: int
) -> dict[str, float]:
    """Shares over `replies` sampled answers (temperature 1) to held-out requests of the pocket
    world: wanted styles of the shipped logs' users, correct answers, readable replies."""
    requests = world.held_out_requests(replies, seed)
    prompts = [chat.prompt([Message("user", request.text)]) for request in requests]
    sampler = Sampler(decoder, [chat.eos_id], rows=256, vocab_limit=len(chat.tokenizer))
    completions = sampler.sample(
        params, prompts, max_new_tokens=pocket_measure.MAX_NEW_TOKENS, temperature=1.0, seed=seed
    )
    texts = [chat.decode([i for i in c.ids if i != chat.eos_id]) for c in completions]
    found = pocket_measure.measure(texts, requests, pocket_measure.LOGGED_PREFERENCE)
    return {name: share for name, share in found.items() if name != "replies"}


EVALUATIONS: dict[str, Measure] = {"pocket": pocket}
"""By the name of the setting `evaluation.name`, where that is not "auto" or "none"."""


def chosen(config: Any) -> Measure | None:
    """What sampled replies are judged by: "auto" knows the shipped logs, and no others."""
    name = config.evaluation.name
    return EVALUATIONS.get(config.data.path if name == "auto" else name)


def measure_start(run: Any, file: Path) -> Mapping[str, float] | None:
    """Measure a `train.Run` before its first step; a resumed run has what it found then from its
    checkpoint.

    None where nothing is to be measured, or was not then. Raises InputError where the run is to go
    by a measure that is not there.
    """
    if (held := run.held_out) is not None:
        if int(run.state.step) > 0:
            held.resume(run.workdir)
        if run.kept.setdefault("measured_on", held.digest) != held.digest:
            log.warning(OTHERS)
    if int(run.state.step) == 0:
        run.kept["before"] = measure_run(run, file)
    elif "before" not in run.kept:  # an earlier version kept it in the file alone
        run.kept["before"] = read_json(file) if file.is_file() else None
    best.check(run.config, run.kept["before"])
    return run.kept["before"]


@progress.of("measuring the model")
def measure_run(run: Any, file: Path) -> dict[str, float] | None:
    """Measure a `train.Run` as it stands, and write the result to `file`; None where nothing is to
    be measured."""
    measure, model = chosen(run.config), run.model
    found: dict[str, float] = {}
    if measure is not None:
        with sharding.on(model.mesh):
            replies, seed = run.config.evaluation.replies, run.config.seed
            found = measure(model.decoder, run.state.params, model.chat, replies, seed)
    found |= of_held_out(run)
    if not found:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    places.write(file, json.dumps(found, indent=2) + "\n")
    return found


def of_held_out(run: Any) -> dict[str, float]:
    """What held-out conversations say of the model as it stands; the replies that were sampled are
    kept with the run. Measured once a step."""
    if run.held_out is None:
        return {}
    step = int(run.state.step)
    if run.kept.get("held_out", {}).get("step") != step:
        begin = None if step else run.workdir
        values, replies = run.held_out.measure(run.state.params, begin)
        run.kept["held_out"] = {"step": step, "values": values, "replies": replies}
    values = run.kept["held_out"]["values"]
    assert isinstance(values, dict)
    return values


def during(run: Any, step: int, due: bool) -> dict[str, float]:
    """What the log says of held-out conversations at a step, where they are `due`, or by
    `evaluation.every`; with the first step also what was found before it."""
    if run.held_out is None:
        return {}
    before = run.kept.get("before") or {}
    first = {f"before_{k}": v for k, v in before.items() if k.startswith("held_out_")}
    every = run.config.evaluation.every
    now = of_held_out(run) if due or (every and step % every == 0) else {}
    return (first if step == 1 else {}) | now


def alarm(run: Any, now: Mapping[str, float]) -> str:
    """Warn where the model shows signs of collapse; what is wrong, where the run is to stop for
    that."""
    how, before = run.config.evaluation.guard, run.kept.get("before") or {}
    found = guard.signs(before, now) if how != "none" else {}
    told = run.kept.get("signs", [])
    news = [text for sign, text in found.items() if sign not in told]
    run.kept["signs"] = sorted({*told, *found})
    if how == "stop" and found:
        return SHOWS.format("; ".join(found.values()))
    if news:  # each is told once
        said = SHOWS.format("; ".join(news))
        log.warning("step %d: %s %s", int(run.state.step), said, guard.ADVICE)
    return ""
