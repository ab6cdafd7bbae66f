"""Checkpoints: the training state and what goes with it, by Orbax, asynchronously.

A run's directory holds `checkpoints/STEP/`, `fixed/NAME` and `model/` (config and tokenizer of the
model, without weights), so that a checkpoint can be exported without the original model. Each
holds digests of its files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from interact_jax import digests, files, memory, places, progress, saved, store
from interact_jax.cluster import processes
from interact_jax.digests import Damaged
from interact_jax.models import hf
from interact_jax.schema import InputError
from interact_jax.settings import Setting
from interact_jax.store import Place

log = logging.getLogger(__name__)

SETTINGS = {
    "start_from": Setting("", "a checkpoint of another run to start from; empty = none"),
    "checkpoint.every": Setting(100, "steps between checkpoints", least=1, free=True),
    "checkpoint.keep": Setting(2, "number of checkpoints to keep", least=1, free=True),
    "checkpoint.damaged": Setting(
        "fall_back",
        "what to do if the newest checkpoint is damaged: fall back to the one before it, or stop",
        ("fall_back", "stop"),
        free=True,
    ),
}


STEP = re.compile(r"0|[1-9][0-9]*")  # the name of a checkpoint's directory


class Checkpoints:
    """The checkpoints of one run; unfinished ones (crash, full disk) are ignored.

    A state has `models` by name. Those named in `fixed` never change: they are saved once, under
    `fixed/`, and not in every checkpoint. Nothing is written before `begin`.
    """

    def __init__(
        self,
        workdir: Place,
        settings: Any,
        fixed: Collection[str] = (),
        push: Callable[[], None] = lambda: None,
    ):
        """`settings` has `keep` and `damaged`. `push` is called by process 0 when a checkpoint is
        written, before it counts."""
        self._workdir, self._push = store.resolved(workdir), push
        self._files = store.of(workdir)
        self._folder = self._workdir / "checkpoints"
        self._fixed = {name: self._workdir / "fixed" / name for name in sorted(fixed)}
        self._keep, self._damaged = settings.keep, settings.damaged
        self._bad: list[Place] = []  # newer than the one that was restored
        self._writer: ocp.AsyncCheckpointer | None = None
        self._watched: store.Watched | None = None
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return max(_complete_steps(self._folder), default=None)

    def kept(self) -> dict[str, Any]:
        """What the newest readable checkpoint keeps beside the state, which takes no time to read:
        `restore` may find it damaged, and go on from another. Empty where there is none."""
        for step in sorted(_complete_steps(self._folder), reverse=True):
            with contextlib.suppress(Damaged):
                return saved.read_kept(self._folder / str(step))
        return {}

    @progress.of("reading the checkpoint")
    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """The newest intact checkpoint: the state, laid out by the shardings of `abstract_state`,
        and what was kept with it.

        Raises InputError where it belongs to another model, was written in a format that cannot be
        read, or no checkpoint is intact.
        """
        state, kept = self._restore_moving(self._without_fixed(abstract_state))
        fixed = {
            name: model.replace(params=saved.read_fixed(self._fixed[name], model.params))
            for name, model in abstract_state.models.items()
            if name in self._fixed
        }
        return state.replace(models={**state.models, **fixed}), kept

    def _restore_moving(self, moving: Any) -> tuple[Any, dict[str, Any]]:
        errors: list[str] = []
        for step in sorted(_complete_steps(self._folder), reverse=True):
            place = self._folder / str(step)
            try:
                restored = saved.read(place, moving)
            except Damaged as error:
                if self._damaged == "stop":
                    raise InputError(
                        f"{error}. --config.checkpoint.damaged=fall_back goes on from the one "
                        "before it."
                    ) from error
                errors.append(str(error))
                self._bad.append(place)
                continue
            for message in errors:
                log.error("%s; going on from checkpoint %d", message, step)
            log.info("resuming from step %d", step)
            return restored
        raise InputError(
            "\n".join(errors) + f"\nThere is no intact checkpoint in {self._folder}. Use another "
            "--workdir, or delete that directory to begin the run anew."
        )

    def begin(self, overlapping: bool = True) -> None:
        """Prepare for writing: remove the remains of interrupted writes, and move damaged
        checkpoints aside, since the run will write these steps anew. Unless checkpoints are
        `overlapping` with the next steps, `save` returns only when one is written."""
        self._overlapping = overlapping
        if processes.is_first():
            self._clean()
        self._bad = []
        processes.meet("checkpoints begun", processes.LONG_SECONDS)  # process 0 may have to copy
        self._files.make(self._folder)  # which a network's file system may not show yet
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._watched = self._files.watch(self._folder)

    def _clean(self) -> None:
        self._files.make(self._folder)
        for place in self._bad:
            log.error("%s: moved to %s", place, _set_aside(place, self._workdir / "damaged"))
        for name in self._files.entries(self._folder):
            place = self._folder / name
            partial = re.match(r"\d+\.orbax-checkpoint-tmp|\.\d+\.old", name)
            unfinished = STEP.fullmatch(name) and not saved.is_finished(place)
            if unfinished:
                log.warning("%s: unfinished, since its run was interrupted; deleted", place)
            if partial or unfinished:
                self._files.remove(place)
        for place in (self._workdir / "model", self._workdir / "known", *self._fixed.values()):
            whole = self._files.renames and self._files.is_dir(place)
            if whole and not digests.is_sealed(place):  # an earlier version wrote it
                digests.seal(place)

    def keep_fixed(self, state: Any) -> None:
        """Write the models that never change. To be called before the first step."""
        for name, place in self._fixed.items():
            if not self._files.renames:  # Orbax would ask for other libraries
                if processes.is_first():
                    self._files.remove(place)
                processes.meet("place for a fixed model")
            with self._files.errors(place), ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(place, {"params": state.models[name].params}, force=True)
            digests.seal_together(place, "checkpoint")

    def save(
        self, step: int, state: Any, kept: Mapping[str, Any], protected: Collection[int] = ()
    ) -> None:
        """Copy the state off the device and return; the files are written in the background, unless
        `begin` was told that there is no room for that copy beside the next step. Of the earlier
        checkpoints the newest stay, and those of `protected` steps.

        Raises OSError where the previous one could not be written.
        """
        assert self._writer is not None, "begin() comes first"
        self.wait()
        self._check_watched()
        place = self._folder / str(step)
        data = {"version": saved.VERSION, **kept}
        with self._files.errors(place):
            self._writer.save(
                place,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(self._without_fixed(state)),
                    data=ocp.args.JsonSave(data),
                ),
            )
        self._pending = self._pool.submit(self._complete, self._writer, place, set(protected))
        if not self._overlapping:
            self.wait()
            memory.trim()  # gigabytes of buffers that the write used

    def _complete(self, writer: ocp.AsyncCheckpointer, place: Place, protected: set[int]) -> None:
        """In the background: once Orbax has finished, write the digests and delete older steps."""
        with self._files.errors(place):
            writer.wait_until_finished()
        if processes.is_first():
            self._push()
        digests.seal_together(place, "checkpoint")
        if not processes.is_first():
            return
        for step in sorted(_complete_steps(self._folder))[: -self._keep]:
            if step in protected:
                continue
            # A half-deleted directory must not look like one.
            self._files.remove(self._folder / str(step), marks=digests.is_own)

    def _without_fixed(self, state: Any) -> Any:
        """The state without the models that never change."""
        models = {name: x for name, x in state.models.items() if name not in self._fixed}
        return state.replace(models=models)

    def wait(self) -> None:
        """Wait until everything is on disk. Raises OSError where it could not be written."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception:
            self._check_watched()  # which would explain it
            raise

    @contextlib.contextmanager
    def flushing(self) -> Iterator[None]:
        """On exit everything is on disk. If the block raises, its error takes precedence over those
        of the pending write; nothing is left to write when the process ends."""
        try:
            yield
        except Exception:
            with contextlib.suppress(Exception):
                self.wait()
            raise
        self.wait()

    @progress.of("writing the checkpoint")
    def close(self) -> None:
        self.wait()
        self._pool.shutdown()
        if self._writer is not None and self._watched is not None:
            self._writer.close()
            self._watched.close()
            self._writer = self._watched = None

    def _check_watched(self) -> None:
        if self._watched is not None:
            self._watched.check()


def finished_steps(run: Place) -> list[int]:
    """The steps of a run's complete checkpoints."""
    return _complete_steps(run / "checkpoints")


def _complete_steps(folder: Place) -> list[int]:
    return [step for step in _all_steps(folder) if saved.is_finished(folder / str(step))]


def _all_steps(folder: Place) -> list[int]:
    there, names = store.of(folder), list[str]()
    with contextlib.suppress(PermissionError):
        names = there.entries(folder)
    return [int(name) for name in names if STEP.fullmatch(name) and there.is_dir(folder / name)]


def _set_aside(place: Place, folder: Place) -> Place:
    """Move a directory into `folder`, under a name that is not taken there. Where moving takes
    time, that of a move which was interrupted is not: it is made again."""
    there = store.of(folder)
    there.make(folder)
    target, number, taken = folder / place.name, 1, there.entries(folder)
    while target.name in taken and (there.renames or digests.is_sealed(target)):
        number += 1
        target = folder / f"{place.name}-{number}"
    if target.name in taken:
        log.warning("%s: half of a move that was interrupted; made again", target)
        there.remove(target)
    there.move(place, target, marks=digests.is_own)
    return target


def find(path: str) -> tuple[Place, int]:
    """(run directory, step) of `path`: a run's directory, its `checkpoints`, or one step in it.

    Raises InputError where there is none.
    """
    places.check_name(f"checkpoint {path}", path)
    given = store.place(path)
    run, step = given, None
    if STEP.fullmatch(given.name) and given.parent.name == "checkpoints":
        run, step = given.parent.parent, int(given.name)
    elif given.name == "checkpoints":
        run = given.parent
    steps = sorted(_complete_steps(run / "checkpoints"))
    if not steps or (step is not None and step not in steps):
        raise InputError(
            f"{path}: no checkpoint there. Expected the --workdir of a run, or its "
            f"checkpoints/STEP; steps found: {steps or 'none'}."
        )
    if step is None:
        step = steps[-1]
        if newer := [n for n in _all_steps(run / "checkpoints") if n > step]:
            log.warning(
                "%s: unfinished, since its run was interrupted; step %d is read",
                run / "checkpoints" / str(max(newer)),
                step,
            )
    return run, step


@progress.of("reading the checkpoint")
def restore_params(path: str, abstract_params: Any, model: str = "policy") -> Any:
    """Only the parameters of one model of a checkpoint, laid out by the shardings of
    `abstract_params`. Raises InputError, also where it is damaged: the user has to choose another
    one."""
    run, step = find(path)
    others = [other for other in sorted(_complete_steps(run / "checkpoints")) if other != step]
    remedy = f"Name another: {run}/checkpoints/STEP. Other steps found: {others or 'none'}."
    place = run / "checkpoints" / str(step)
    try:
        return saved.read_params(place, abstract_params, model, remedy)
    except Damaged as error:
        raise InputError(str(error)) from error


def keep_model_files(source: Path, raw: Mapping[str, Any], tokenizer: Path, run: Path) -> Path:
    """Put config (`raw`, unchanged) and tokenizer into the run's `model/`; returns its path."""
    target = run / "model"
    with files.whole_directory(target) as partial:
        hf.copy_tokenizer(tokenizer, partial)
        text = json.dumps(raw, indent=2, ensure_ascii=False)
        (partial / "config.json").write_text(text + "\n", encoding="utf-8")
        if (source / "generation_config.json").is_file():
            shutil.copyfile(source / "generation_config.json", partial / "generation_config.json")
        digests.seal(partial)
    return target


def check_model_files(run: Path) -> Path:
    """The run's `model/`. Raises InputError where it is damaged or missing."""
    place = run / "model"
    remedy = (
        "Put back the config and the tokenizer of the model that the run began with, without the "
        f"file {digests.NAME.format(0, 1)}."
    )
    if not place.is_dir():
        raise InputError(f"{place}: not there. {remedy}")
    saved.check(place, remedy, needed=False)
    return place
