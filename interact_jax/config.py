"""The settings of a run: gathered from their homes, overrides from the command line, checks.

Every setting is defined once, in the `SETTINGS` of the module that it affects; `configs/*.py` start
from `default()` and change what differs.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import math
import traceback
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from interact_jax import (
    best,
    checkpoint,
    guard,
    held_out,
    hindsight_check,
    loggers,
    methods,
    objectives,
    opening,
    optim,
    places,
    sharding,
    shipped,
    skipping,
    staged,
    teachers,
)
from interact_jax.data import (
    chat,
    dataset,
    encode,
    holdout,
    limits,
    mixture,
    pipeline,
    tree,
    weighing,
)
from interact_jax.json_files import read_json
from interact_jax.models import attention, decoder
from interact_jax.online import engines, feed, prompts, rollouts, schedule
from interact_jax.schema import InputError
from interact_jax.settings import MOST_COUNTED, MOST_SEED, Setting, kind_of

log = logging.getLogger(__name__)

SETTINGS = {
    "steps": Setting(
        0, "length of the run in steps; 0 = epochs decide", least=0, most=MOST_COUNTED, free=True
    ),
    "epochs": Setting(
        2.0,
        "length of the run in passes over the data; 0 = steps decide",
        least=0,
        most=1e6,
        free=True,
    ),
    "evaluation.name": Setting(
        "auto",
        "how replies in the pocket world are judged, before and after; auto = only if the "
        "data is the pocket world's",
        ("auto", "none", "pocket"),
        free=True,
    ),
    "evaluation.replies": Setting(
        2048, "number of replies sampled for evaluation.name", least=1, free=True
    ),
    "report.interactions": Setting(
        32, "replies shown token by token in the report; 0 = none", least=0, free=True
    ),
    "compile_cache": Setting(
        "auto", "directory for compiled programs; auto = the user's cache, empty = none", free=True
    ),
    "max_bad_steps": Setting(
        5,
        "consecutive steps without a finite loss and gradient after which the run stops",
        least=1,
        free=True,
    ),
    "seed": Setting(0, "seed of everything random", least=0, most=MOST_SEED),
}
"""Those of the run as a whole; every other one is defined in the module that it affects."""

HOMES = (
    opening.SETTINGS,
    dataset.SETTINGS,
    mixture.SETTINGS,
    pipeline.SETTINGS,
    encode.SETTINGS,
    chat.SETTINGS,
    methods.SETTINGS,
    tree.SETTINGS,
    objectives.SETTINGS,
    teachers.SETTINGS,
    weighing.SETTINGS,
    limits.SETTINGS,
    skipping.SETTINGS,
    hindsight_check.SETTINGS,
    holdout.SETTINGS,
    held_out.SETTINGS,
    prompts.SETTINGS,
    schedule.SETTINGS,
    rollouts.SETTINGS,
    engines.SETTINGS,
    feed.SETTINGS,
    guard.SETTINGS,
    optim.SETTINGS,
    decoder.SETTINGS,
    attention.SETTINGS,
    sharding.SETTINGS,
    checkpoint.SETTINGS,
    best.SETTINGS,
    loggers.SETTINGS,
    staged.SETTINGS,
    SETTINGS,
)


def settings() -> dict[str, Setting]:
    """Every setting by its full name, grouped by prefix."""
    by_name = {name: setting for home in HOMES for name, setting in home.items()}
    groups = list(dict.fromkeys(name.partition(".")[0] for name in by_name))
    return dict(sorted(by_name.items(), key=lambda item: groups.index(item[0].partition(".")[0])))


def default() -> ConfigDict:
    """All settings with their defaults; a new ConfigDict every time."""
    c = ConfigDict()
    for name, setting in settings().items():
        *parents, last = name.split(".")
        group = c
        for parent in parents:
            if parent not in group:
                group[parent] = ConfigDict()
            group = group[parent]
        group[last] = setting.default
    return c.lock()


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
    """Every setting with its default and meaning, for `--help`."""
    return "\n".join(setting.describe(name) for name, setting in settings().items())


def find(given: str) -> Path:
    """The file that --config names: a path, or the name of a shipped recipe, such as quickstart.

    Raises InputError, which lists what exists, where there is none.
    """
    recipes = shipped.names("configs")
    if given in recipes:
        return shipped.folder("configs") / f"{given}.py"
    file = Path(given)
    if file.is_file():
        if file.suffix != ".py":
            raise InputError(
                f"--config={given}: expected a Python file, or a recipe: {', '.join(recipes)}."
            )
        return file
    is_name = file.name == given and not file.suffix
    beside = [] if is_name else sorted(p.as_posix() for p in file.parent.glob("*.py"))
    problem = "no shipped recipe of that name" if is_name else "no such file"
    matches = difflib.get_close_matches(given, [*recipes, *beside], n=1)
    if file.stem in recipes:  # configs/NAME.py, but this is another directory
        matches = [file.stem]
    raise InputError(
        f"--config={given}: {problem}."
        + (f" Did you mean {matches[0]}?" if matches else "")
        + f" Recipes by name: {', '.join(recipes)}."
        + (f" Files there: {', '.join(beside)}." if beside else "")
    )


def load(given: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Run `get_config()` of a Python file, apply `--config.KEY=VALUE` arguments, check everything.

    `given` is the file's path, or the name of a shipped recipe. Raises InputError with one message
    for the user.
    """
    places.check_name(f"--config={given}", given)
    file = find(given)
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    assert spec is not None and spec.loader is not None  # true for any .py file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # the file is the user's code and can raise anything
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{file}:{where.lineno}" if where.filename == str(file) else file
        raise InputError(f"{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{file}: get_config() gave {config!r}, expected a ConfigDict.")
    for argument in overrides:
        override(config, argument)
    _choose_length(config, {_name_of(argument) for argument in overrides})
    check(config)
    methods.method_of(config)  # raises where objective and recipe do not match
    return config.lock()


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def override(config: ConfigDict, argument: str) -> None:
    """Apply one "--config.KEY=VALUE" (or "KEY=VALUE"); the value takes the type of the default."""
    name, (_, equals, text) = _name_of(argument), argument.partition("=")
    known = flatten(config)
    if name not in known:
        suggestions = similar(name, list(known))
        raise InputError(
            f"--config.{name}: there is no such setting."
            + (
                f" Did you mean {' or '.join(suggestions)}?"
                if suggestions
                else f" Available: {', '.join(known)}."
            )
        )
    if not equals:
        raise InputError(f"--config.{name}: expected --config.{name}=VALUE.")
    kind = type(known[name])
    try:
        value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise InputError(f"--config.{name}={text}: expected {kind_of(known[name])}.") from None
    *parents, last = name.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value


ALIASES = {
    "learning_rate": "optim.lr",
    "batch_size": "batch.interactions",
    "per_device_train_batch_size": "batch.interactions",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_grad_norm": "optim.clip_norm",
    "lr_scheduler_type": "optim.schedule",
    "warmup_ratio": "optim.warmup_fraction",
    "model_name_or_path": "model.path",
    "dataset_name": "data.path",
    "max_seq_length": "data.max_length",
    "gradient_checkpointing": "remat",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "report_to": "loggers",
}
"""Names of settings in other trainers -> ours."""


def same_elsewhere(name: str, known: Sequence[str]) -> list[str]:
    """Settings that have this name in other trainers or, with another group before it, here."""
    last = name.rpartition(".")[2]
    matches = [candidate for candidate in known if candidate.rpartition(".")[2] == last]
    return [ALIASES[last], *matches] if last in ALIASES else matches


def similar(name: str, known: Sequence[str]) -> list[str]:
    """Suggestions for an unknown setting: `same_elsewhere`, or else those of similar names."""
    return same_elsewhere(name, known) or difflib.get_close_matches(name, known, n=3, cutoff=0.5)


def _name_of(argument: str) -> str:
    return argument.removeprefix("--config.").partition("=")[0]


def _choose_length(config: ConfigDict, given: Set[str]) -> None:
    """Between `steps` and `epochs`, one on the command line overrides the other in the file."""
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in given and other not in given and config[one] and config[other]:
            log.info("%s=%s as given, instead of %s=%s", one, config[one], other, config[other])
            config[other] = type(config[other])(0)


def check(config: ConfigDict) -> None:
    """Raise InputError for an invalid value."""
    flat = flatten(config)
    expected = flatten(default())
    if set(flat) != set(expected):
        wrong = ", ".join(sorted(set(flat) ^ set(expected)))
        raise InputError(f"missing or unknown settings: {wrong}. Start from default().")
    for name, setting in settings().items():
        setting.check(name, flat[name])
    for one, other in (("batch.conversations", "batch.interactions"), ("steps", "epochs")):
        if bool(flat[one]) == bool(flat[other]):
            raise InputError(
                f"{one}={flat[one]} and {other}={flat[other]}: exactly one of them must be nonzero."
            )
    loggers.names_of(flat["loggers"])
    if not flat["model.path"]:
        raise InputError("model.path is not set: give a directory, a hub id, or pocket.")
    if flat["data.max_reply"] <= flat["objective.ignore_first"]:
        raise InputError(
            f"data.max_reply={flat['data.max_reply']}: expected more than objective.ignore_first="
            f"{flat['objective.ignore_first']}, or no token of any reply would count."
        )
    if not data_of(flat) and flat["stages"] == staged.NONE:  # others make their data
        raise InputError(
            "data.path is not set: give a file of conversations, --config.data.path=FILE; "
            "data.mixture, to learn from several prepared data sets; or online.prompts, to learn "
            "online."
        )
    given = [name for name in DATA if flat[name]]
    if len(given) > 1:
        raise InputError(
            f"{' and '.join(f'{name}={flat[name]}' for name in given)}: a run learns from one of "
            f"them. {_how_to_leave_one(given)}"
        )
    if flat["data.mixture"]:
        mixture.parse(flat["data.mixture"])  # raises where it is not understood
        if not flat["steps"]:
            raise InputError(
                f"epochs={flat['epochs']:g}: the data sets of data.mixture are not through at the "
                "same time, so it has no epochs. Set steps instead, and epochs=0."
            )
    if flat["data.path"] == places.STANDARD:
        raise InputError(
            "data.path=-: a run that is resumed reads its data again, and standard input is over "
            "by then. Write it to a file and give that."
        )


DATA = ("data.path", "data.mixture", "online.prompts", "online.replay")


def _how_to_leave_one(given: Sequence[str]) -> str:
    """What to add so that a single one of these settings remains, for each of them."""
    ways = []
    for kept in reversed(given):  # a recipe has one of the first
        others = " ".join(f"--config.{name}=" for name in given if name != kept)
        ways.append(f"{others} to learn from {kept}")
    return f"Add {', or '.join(ways)}."


def data_of(flat: Mapping[str, Any]) -> str:
    """What a run with these settings, by their full names, learns from: logs, prompts that it is
    to reply to, or another run's record."""
    return next((str(flat[name]) for name in DATA if flat.get(name)), "")


def check_resume(config: ConfigDict, saved_file: Path) -> None:
    """Raise InputError where `config` does not match the run that was saved.

    `free` settings may change. A schedule that ends with the run follows `steps` and `epochs`.
    """
    if not saved_file.is_file():
        raise _unreadable_error(saved_file, "not there")
    try:
        saved = read_json(saved_file)
    except InputError as error:
        raise _unreadable_error(saved_file, f"cannot be read ({error})") from error
    known = settings()
    if unknown := sorted(saved.keys() - known.keys()):
        log.warning(
            "%s: settings of the run that this version does not have: %s",
            saved_file,
            ", ".join(unknown),
        )
    changed = []
    for name, value in to_json(config).items():
        # A setting that is newer than the run was off then.
        old = saved.get(name, known[name].before if known[name].before is not None else value)
        if old != value and not known[name].free:
            changed.append(f"{name}: {old!r} then, {value!r} now")
    newer = [
        f"--config.{name}={known[name].before}"
        for name in known
        if known[name].before is not None and name not in saved
    ]
    if changed:
        hint = f"To go on as it was begun: {' '.join(newer)}. " if newer else ""
        raise InputError(
            f"{saved_file.parent} holds a run with other settings ({'; '.join(changed)}). {hint}"
            "Use another --workdir (with --config.start_from to continue from its parameters)."
        )


def _unreadable_error(saved_file: Path, what: str) -> InputError:
    return InputError(
        f"{saved_file}: {what}, though the run has checkpoints: its settings are unknown. Put it "
        "back, or use another --workdir (with --config.start_from to continue from its parameters)."
    )


def write(config: ConfigDict, file: Path) -> None:
    """Write `config.json`."""
    places.write(file, json.dumps(to_json(config), indent=2) + "\n")


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The flat settings for JSON: infinity as text."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in flatten(config).items()
    }
