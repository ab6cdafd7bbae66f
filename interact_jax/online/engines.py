"""The engine of an online run, by its settings: the mesh's own sampler, or a server.

engine = open_engine(cfg, model, workdir)
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from interact_jax.generation.engine import Engine, SamplingParams
from interact_jax.generation.local import sampler_of
from interact_jax.generation.server_engine import LOGPROBS, Vocabulary
from interact_jax.generation.sglang import SglangEngine
from interact_jax.generation.vllm import VllmEngine
from interact_jax.generation.weight_files import WeightFiles
from interact_jax.opening import OpenedModel
from interact_jax.schema import InputError
from interact_jax.settings import Setting

MESH = "mesh"
SERVERS = ("vllm", "sglang")
SETTINGS = {
    "online.engine": Setting(
        MESH,
        "what samples the replies: the mesh itself, or a server that takes this run's weights: "
        "vllm@URL or sglang@URL",
        free=True,
    ),
    "online.served_model": Setting(
        "", "for vllm: the name that the model has there; empty = model.path", free=True
    ),
    "online.logprobs": Setting(
        "auto",
        "for servers: which log-probabilities they report, of the model itself (raw), after the "
        "temperature (tempered), or of what was drawn from (processed); auto = their default",
        ("auto", *LOGPROBS),
        free=True,
    ),
    "online.rows": Setting(
        64, "replies that the mesh samples at a time, at most", least=1, most=2**16, free=True
    ),
    "online.new_tokens": Setting(
        256, "longest reply, in tokens; a longer one is cut, and learned as it is", least=1
    ),
    "online.temperature": Setting(1.0, "of sampling", above=0, most=100),
    "online.top_k": Setting(0, "draw from so many of the likeliest tokens; 0 = all", least=0),
    "online.top_p": Setting(
        1.0, "draw from the likeliest tokens with this probability in all", above=0, most=1
    ),
    "online.min_p": Setting(
        0.0, "draw from tokens with this share of the likeliest one's probability", least=0, most=1
    ),
}


def params_of(online: Any) -> SamplingParams:
    """How replies are drawn, from the settings `online.*`."""
    return SamplingParams(
        online.new_tokens, online.temperature, online.top_k, online.top_p, online.min_p
    )


def check_engine(engine: str) -> None:
    """Raise InputError for an engine that a run in a bucket cannot have."""
    if engine != MESH:
        raise InputError(
            f"online.engine={engine}: a server reads weights from a file system, and --workdir is "
            f"in a bucket. Give a directory that both see, or take {MESH}."
        )


def open_engine(cfg: Any, model: OpenedModel, workdir: Path) -> Engine:
    """The engine, without this run's weights yet. A server gets them in `workdir`/weights.

    Raises InputError for a setting that names none.
    """
    online = cfg.online
    if online.engine == MESH:
        return sampler_of(model, rows=online.rows)
    kind, at, url = online.engine.partition("@")
    if kind not in SERVERS or not at or not url.startswith(("http://", "https://")):
        raise InputError(
            f"online.engine={online.engine!r}: expected {MESH}, or "
            f"{' or '.join(f'{name}@http://HOST:PORT' for name in SERVERS)}."
        )
    export = functools.partial(model.export, dtype=cfg.export.dtype)
    weights = WeightFiles(workdir / "weights", export)
    options = {} if online.logprobs == "auto" else {"logprobs": online.logprobs}
    vocabulary = Vocabulary.of(model)
    if kind == "vllm":
        name = online.served_model or cfg.model.path
        return VllmEngine(url, vocabulary, weights, model=name, **options)
    return SglangEngine(url, vocabulary, weights, **options)
