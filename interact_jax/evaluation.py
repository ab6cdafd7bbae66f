"""Measurements of a model by what it says: sampled replies, judged by a program.

So far one: the pocket world, whose replies can be read back (`interact_jax.pocket`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interact_jax import places, sharding
from interact_jax.data.chat import ChatFormat
from interact_jax.generation.sampler import Sampler
from interact_jax.json_files import read_json
from interact_jax.models.decoder import Decoder
from interact_jax.pocket import measure as pocket_measure
from interact_jax.pocket import world
from interact_jax.schema import Message

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
    """What a run is measured by: "auto" knows the shipped model, and of no other."""
    name = config.evaluation.name
    if name == "auto":
        name = config.model.path
    return EVALUATIONS.get(name)


def measure_start(run: Any, file: Path) -> Mapping[str, float] | None:
    """Measure a `train.Run` before its first step; a resumed run has what it found then from its
    checkpoint.

    None where nothing is to be measured, or was not then.
    """
    if int(run.state.step) == 0:
        run.kept["before"] = measure_run(run, file)
    elif "before" not in run.kept:  # an earlier version kept it in the file alone
        run.kept["before"] = read_json(file) if file.is_file() else None
    return run.kept["before"]


def measure_run(run: Any, file: Path) -> Mapping[str, float] | None:
    """Measure a `train.Run` as it stands, and write the result to `file`; None if `none` is set."""
    measure = chosen(run.config)
    if measure is None:
        return None
    replies, seed = run.config.evaluation.replies, run.config.seed
    model = run.model
    with sharding.on(model.mesh):
        found = measure(model.decoder, run.state.params, model.chat, replies, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    places.write(file, json.dumps(found, indent=2) + "\n")
    return found
