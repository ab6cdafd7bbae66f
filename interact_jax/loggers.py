"""Loggers that show a run's numbers as curves, in addition to `metrics.jsonl`.

    curves = Loggers("tensorboard,wandb", workdir, first, settings)
    curves.write(7, {"loss": 0.25})
    curves.close()

A logger is an object with `write` and `close`, and an entry in LOGGERS that starts it. None can end
a run: the first error of a logger is reported, and it is not used again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from interact_jax import places, startup
from interact_jax.schema import InputError
from interact_jax.settings import Setting

log = logging.getLogger(__name__)

SETTINGS = {
    "loggers": Setting(
        "tensorboard",
        "where curves are written, separated by commas: tensorboard, wandb; empty = nowhere",
        free=True,
    ),
}
PATIENCE = 60  # seconds that a run waits at its end for pending uploads


class Logger(Protocol):
    """Receives the numbers of each step in turn."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in WORKDIR/tensorboard."""

    def __init__(self, workdir: Path, first: int, settings: Mapping[str, Any]):
        with startup.without_torch("tensorboardX"):
            from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=first + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases:
    """A run of Weights & Biases, with its files in WORKDIR/wandb.

    A resumed run continues the run that WORKDIR/wandb_run names. Account, project and mode are set
    in wandb's own way: `wandb login`, WANDB_PROJECT, WANDB_MODE=offline.
    """

    def __init__(self, workdir: Path, first: int, settings: Mapping[str, Any]):
        import wandb  # an optional dependency; importing it takes a second

        kept = workdir / "wandb_run"
        if not (first and kept.is_file()):
            places.write(kept, secrets.token_hex(8) + "\n")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "interact_jax",
            name=os.environ.get("WANDB_NAME") or workdir.resolve().name,
            id=kept.read_text().strip(),
            resume="allow",
            dir=workdir,
            config=dict(settings),
            settings=wandb.Settings(
                console="off", login_timeout=PATIENCE, finish_timeout=PATIENCE, silent=True
            ),
        )
        # Its own step counter only increases, so steps that are computed again after a crash would
        # be dropped. Our step is therefore logged as a number, which is the axis of all others.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a logger is started, from (workdir, steps done, settings), and its package."""

    start: Callable[[Path, int, Mapping[str, Any]], Logger]
    package: str


LOGGERS = {
    "tensorboard": Kind(TensorBoard, "tensorboardX"),
    "wandb": Kind(WeightsAndBiases, "wandb"),
}


def names_of(chosen: str) -> list[str]:
    """The names in a value of the setting `loggers`. Raises InputError for an unknown one."""
    names = list(dict.fromkeys(name.strip() for name in chosen.split(",") if name.strip()))
    for name in names:
        if name not in LOGGERS:
            raise InputError(
                f"loggers={chosen!r}: there is no logger {name!r}. Available: "
                f"{', '.join(LOGGERS)}; several are separated by commas."
            )
    return names


def check_installed(chosen: str) -> None:
    """Raise InputError where a logger lacks its package."""
    for name in names_of(chosen):
        package = LOGGERS[name].package
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"loggers={chosen!r}: {name} needs the package {package}: "
                f"pip install 'interact_jax[{name}]'. Or leave it out of --config.loggers."
            )


class Loggers:
    """All loggers of a run."""

    def __init__(self, chosen: str, workdir: Path, first: int, settings: Mapping[str, Any]):
        self._active: dict[str, Logger] = {}
        for name in names_of(chosen):
            with self._catch_errors(name):
                self._active[name] = LOGGERS[name].start(workdir, first, settings)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, logger in list(self._active.items()):
            with self._catch_errors(name):
                logger.write(step, values)

    def close(self) -> None:
        for name, logger in list(self._active.items()):
            with self._catch_errors(name):
                logger.close()

    @contextlib.contextmanager
    def _catch_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a third-party service can raise anything
            self._active.pop(name, None)
            message = str(error).strip().partition("\n")[0]
            log.error(
                "loggers: %s fails (%s: %s); nothing more goes there. The run goes on, and all "
                "numbers are in metrics.jsonl",
                name,
                type(error).__name__,
                message,
            )
