"""The settings of a run: their defaults, overrides from the command line, and their checks.

Every setting stands once, here, with its unit; `configs/*.py` start from `default()` and change
what differs. Types are those of the defaults, so nothing is None: where 0, inf or "" means "off",
the comment says so.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from interact_jax.data.chat import REPLY_TOKENS
from interact_jax.data.conversations import FORMATS
from interact_jax.data.encode import SPECIAL_TOKENS, WINDOWS
from interact_jax.data.tree import GROW
from interact_jax.models.attention import BACKENDS
from interact_jax.models.decoder import REMAT_POLICIES
from interact_jax.objectives import OBJECTIVES
from interact_jax.optim import OPTIMISERS, SCHEDULES
from interact_jax.schema import InputError


def default() -> ConfigDict:
    """All settings with their defaults; a new ConfigDict every time."""
    c = ConfigDict()

    c.model = ConfigDict()
    c.model.path = "pocket"  # Hugging Face directory or hub id; `pocket` = the shipped model
    c.model.tokenizer = ""  # another tokenizer's directory; "" = the model's
    c.model.init = "pretrained"  # or `random`: only config.json is needed
    c.model.dtype = "bfloat16"  # of the computation
    c.model.param_dtype = "float32"  # of the parameters; bfloat16 loses updates below 1/256 of them
    c.start_from = ""  # a checkpoint of another run to continue from; "" = none

    c.data = ConfigDict()
    c.data.path = ""  # file, glob or directory; `pocket` = the shipped logs
    c.data.format = "auto"  # or a reader's name
    c.data.max_length = 4096  # tokens of a conversation before the window hops
    c.data.max_reply = 2048  # tokens of a reply before it is cut (its EOS is then lost)
    c.data.history = "conversation"  # or `reference`: the paper's code, see data/encode.py
    c.data.reply_tokens = "in_place"  # or `alone`: y tokenised by itself
    c.data.special_tokens = "drop"  # conversations that spell one; or `keep`, `stop`
    c.data.on_error = "stop"  # at a bad record; or `skip` it, counted
    c.data.workers = 0  # processes that tokenise; 0 = the main one. The result is the same

    c.hindsight = "offline"  # or `online`, or a text with {o}
    c.sharing = "tree"  # or `none`: two full forwards per interaction, for comparison

    c.objective = ConfigDict()
    c.objective.name = "sdpo"
    c.objective.ignore_first = 2  # tokens of every reply that do not count (reference code: 2)

    c.optim = ConfigDict()
    c.optim.name = "adamw"
    c.optim.lr = 2e-6  # peak
    c.optim.weight_decay = 0.0
    c.optim.schedule = "cosine"
    c.optim.warmup_fraction = 0.05  # share of the run
    c.optim.clip_norm = 10.0  # of the whole gradient; inf = off

    c.batch = ConfigDict()
    c.batch.conversations = 0  # a step's batch: so many conversations; 0 = by interactions
    c.batch.interactions = 32  # or whole conversations until at least so many; 0 = the other
    c.batch.row_tokens = 4096  # trunk length of a packed row; longer trunks make rows longer
    c.batch.rows = 1  # rows per micro-step and data shard

    c.attention = "auto"  # by the devices, or a name of models/attention
    c.remat = "full"  # what the backward pass recomputes, see models/decoder.py
    c.steps = 0  # length of the run; 0 = by epochs
    c.epochs = 2.0  # or passes over the data; 0 = by steps

    c.mesh = ConfigDict()  # sizes; -1 for one of them = the devices that are left
    c.mesh.data = -1
    c.mesh.fsdp = 1
    c.mesh.tensor = 1
    c.mesh.sequence = 1  # nothing is shared out over it yet: its devices compute the same

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 100  # steps
    c.checkpoint.keep = 2  # how many

    c.export = ConfigDict()
    c.export.dtype = "bfloat16"

    c.evaluation = ConfigDict()
    c.evaluation.name = "auto"  # measured before and after: `pocket`, `none`, or by the model
    c.evaluation.replies = 2048  # how many are sampled

    c.report = ConfigDict()
    c.report.interactions = 32  # replies shown token by token in report/; 0 = no report

    c.compile_cache = "auto"  # directory of compiled programs; auto = the user's cache, "" = none
    c.max_bad_steps = 5  # non-finite steps in a row before the run stops
    c.seed = 0  # everything random follows from it
    return c.lock()


CHOICES = {
    "model.init": ("pretrained", "random"),
    "model.dtype": ("float32", "bfloat16"),
    "model.param_dtype": ("float32", "bfloat16"),
    "export.dtype": ("float32", "bfloat16"),
    "data.format": tuple(FORMATS),
    "data.history": tuple(WINDOWS),
    "data.reply_tokens": REPLY_TOKENS,
    "data.special_tokens": SPECIAL_TOKENS,
    "data.on_error": ("stop", "skip"),
    "sharing": tuple(GROW),
    "objective.name": tuple(OBJECTIVES),
    "optim.name": tuple(OPTIMISERS),
    "optim.schedule": tuple(SCHEDULES),
    "attention": ("auto", *BACKENDS),
    "remat": tuple(REMAT_POLICIES),
    "evaluation.name": ("auto", "none", "pocket"),
}
AT_LEAST = {
    "data.max_length": 2,
    "data.max_reply": 1,
    "data.workers": 0,
    "objective.ignore_first": 0,
    "optim.lr": 0,
    "optim.weight_decay": 0,
    "optim.warmup_fraction": 0,
    "batch.conversations": 0,
    "batch.interactions": 0,
    "batch.row_tokens": 1,
    "batch.rows": 1,
    "steps": 0,
    "epochs": 0,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "evaluation.replies": 1,
    "report.interactions": 0,
    "max_bad_steps": 1,
    "seed": 0,
}


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{"model.path": ..., ...}: every setting by its full name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def describe() -> str:
    """Every setting with its default, a line each, for `--help`."""
    lines = (f"  --config.{name}={value!r}" for name, value in flatten(default()).items())
    return "\n".join(lines)


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Run `get_config()` of a Python file, apply `--config.KEY=VALUE` arguments, check everything.

    Raises InputError with one message for the person who typed it.
    """
    file = Path(path)
    if not file.is_file():
        there = ", ".join(sorted(p.as_posix() for p in file.parent.glob("*.py")))
        raise InputError(
            f"--config={path}: no such file. " + (f"There is: {there}." if there else "")
        )
    if file.suffix != ".py":
        raise InputError(f"--config={path}: expected a Python file, such as configs/quickstart.py.")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # the file is the user's program: anything can come out of it
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{path}:{where.lineno}" if where.filename == str(file) else path
        raise InputError(f"{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config() gave {config!r}, expected a ConfigDict.")
    for argument in overrides:
        override(config, argument)
    check(config)
    return config.lock()


def override(config: ConfigDict, argument: str) -> None:
    """Apply one "--config.KEY=VALUE" (or "KEY=VALUE"); the value takes the type of the default."""
    name, equals, text = argument.removeprefix("--config.").partition("=")
    known = flatten(config)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise InputError(
            f"--config.{name}: there is no such setting."
            + (f" Did you mean {' or '.join(near)}?" if near else f" There is: {', '.join(known)}.")
        )
    if not equals:
        raise InputError(f"--config.{name}: expected --config.{name}=VALUE.")
    kind = type(known[name])
    try:
        value = kind(text)
    except ValueError:
        raise InputError(
            f"--config.{name}={text}: expected {'an' if kind is int else 'a'} {kind.__name__}, "
            f"such as {known[name]!r}."
        ) from None
    *parents, last = name.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value


def check(config: ConfigDict) -> None:
    """Raise InputError for a value that cannot be meant."""
    flat = flatten(config)
    expected = flatten(default())
    if set(flat) != set(expected):
        wrong = ", ".join(sorted(set(flat) ^ set(expected)))
        raise InputError(f"settings that are missing or too many: {wrong}. Start from default().")
    for name, allowed in CHOICES.items():
        if flat[name] not in allowed:
            listed = ", ".join(repr(a) for a in allowed)
            raise InputError(f"{name}={flat[name]!r}: expected one of {listed}.")
    for name, least in AT_LEAST.items():
        if not flat[name] >= least:
            raise InputError(f"{name}={flat[name]!r}: expected at least {least}.")
    if not flat["optim.clip_norm"] > 0:
        raise InputError(f"optim.clip_norm={flat['optim.clip_norm']}: expected > 0; inf is off.")
    if not math.isfinite(flat["epochs"]):
        raise InputError(
            f"epochs={flat['epochs']}: expected a number of passes over the data (or 0, and steps)."
        )
    if not (flat["optim.warmup_fraction"] <= 1 and math.isfinite(flat["optim.lr"])):
        raise InputError("optim.warmup_fraction is a share of the run, at most 1; lr is finite.")
    for one, other in (("batch.conversations", "batch.interactions"), ("steps", "epochs")):
        if bool(flat[one]) == bool(flat[other]):
            raise InputError(
                f"{one}={flat[one]} and {other}={flat[other]}: exactly one must not be 0."
            )
    if not flat["data.path"]:
        raise InputError(
            "data.path is not set: give a file of conversations, --config.data.path=FILE."
        )


# A run may be resumed with other values of these: how it is computed and how long it goes on. A
# schedule that ends with the run moves with `steps` and `epochs`.
FREE_ON_RESUME = (
    *("steps", "epochs", "max_bad_steps", "remat", "attention", "batch.rows", "compile_cache"),
    *("model.path", "data.path", "data.workers"),
    *("mesh.", "checkpoint.", "export.", "evaluation.", "report."),
)


def check_resume(config: ConfigDict, saved_file: Path) -> None:
    """Raise InputError where `config` would continue another run than the one that was saved."""
    saved = json.loads(saved_file.read_text())
    changed = [
        f"{name}: {saved[name]!r} then, {value!r} now"
        for name, value in to_json(config).items()
        if name in saved and saved[name] != value and not name.startswith(FREE_ON_RESUME)
    ]
    if changed:
        raise InputError(
            f"{saved_file.parent} holds a run with other settings ({'; '.join(changed)}). "
            "Use another --workdir (with --config.start_from to continue from its parameters)."
        )


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The flat settings as JSON holds them: infinity as text."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in flatten(config).items()
    }
