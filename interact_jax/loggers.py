"""Where the numbers of a run go beside `metrics.jsonl`, for people to look at: curves.

    found = Loggers("tensorboard,wandb", workdir, first, settings)
    found.write(7, {"loss": 0.25})
    found.close()

A logger is an object with `write` and `close`, and an entry in LOGGERS that starts it. None of them
can end a run: the first error of one is reported, and nothing more goes there.
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

from tensorboardX import SummaryWriter

from interact_jax import places
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
PATIENCE = 60  # seconds that a run waits at its end for what is still to be sent


class Logger(Protocol):
    """Takes the numbers of one step after the other."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in WORKDIR/tensorboard."""

    def __init__(self, workdir: Path, first: int, settings: Mapping[str, Any]):
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=first + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases:
    """A run of Weights & Biases, with what it keeps in WORKDIR/wandb.

    A resumed run goes on in the run that WORKDIR/wandb_run names. Account, project and mode are
    told as wandb has it: `wandb login`, WANDB_PROJECT, WANDB_MODE=offline.
    """

    def __init__(self, workdir: Path, first: int, settings: Mapping[str, Any]):
        import wandb  # an extra; it takes a second

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
        # Its own count of steps only rises: what a crash undid, and is computed again, would be
        # dropped there. So the step is a number like the others, and the axis of all.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a logger is started, from (workdir, steps that are done, settings), and its package."""

    start: Callable[[Path, int, Mapping[str, Any]], Logger]
    package: str


LOGGERS = {
    "tensorboard": Kind(TensorBoard, "tensorboardX"),
    "wandb": Kind(WeightsAndBiases, "wandb"),
}


def names_of(chosen: str) -> list[str]:
    """The names in a value of the setting `loggers`. Raises InputError for one that is none."""
    names = list(dict.fromkeys(name.strip() for name in chosen.split(",") if name.strip()))
    for name in names:
        if name not in LOGGERS:
            raise InputError(
                f"loggers={chosen!r}: there is no logger {name!r}. There is: {', '.join(LOGGERS)}; "
                "several are separated by commas."
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
        self._at_work: dict[str, Logger] = {}
        for name in names_of(chosen):
            with self._surviving(name):
                self._at_work[name] = LOGGERS[name].start(workdir, first, settings)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, logger in list(self._at_work.items()):
            with self._surviving(name):
                logger.write(step, values)

    def close(self) -> None:
        for name, logger in list(self._at_work.items()):
            with self._surviving(name):
                logger.close()

    @contextlib.contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a foreign service thinks of
            self._at_work.pop(name, None)
            said = str(error).strip().partition("\n")[0]
            log.error(
                "loggers: %s fails (%s: %s); nothing more goes there. The run goes on, and all "
                "numbers are in metrics.jsonl",
                name,
                type(error).__name__,
                said,
            )
