"""Checkpoints: the training state and the data position, by Orbax, asynchronously.

A run's directory holds `checkpoints/STEP/` and `model/` (config and tokenizer of the model, without
weights), so that a checkpoint can be exported without the model it once came from.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.struct
import jax
import orbax.checkpoint as ocp

from interact_jax.models import hf
from interact_jax.schema import InputError
from interact_jax.settings import Setting

SETTINGS = {
    "start_from": Setting("", "a checkpoint of another run to continue from; empty = none"),
    "checkpoint.every": Setting(100, "steps from one to the next", least=1, free=True),
    "checkpoint.keep": Setting(2, "how many", least=1, free=True),
}

VERSION = 2  # of what lies in a checkpoint; 1 had one model only, and no version


class Checkpoints:
    """The checkpoints of one run; an unfinished one (crash, full disk) is never seen again.

    A state has `models` by name. Those named `fixed` never move: they are kept once, under
    `fixed/`, and not in every checkpoint.
    """

    def __init__(self, workdir: Path, keep: int = 2, fixed: Collection[str] = ()):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager((workdir / "checkpoints").resolve(), options=options)
        self._fixed = {name: (workdir / "fixed" / name).resolve() for name in sorted(fixed)}

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def keep_fixed(self, state: Any) -> None:
        """Write the models that never move. To be called before the first step."""
        for name, place in self._fixed.items():
            with _clear_errors(), ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(place, {"params": state.models[name].params}, force=True)

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Copy the state off the device and go on; the files are written in the background.

        Raises OSError where the one before could not be written.
        """
        position = {"version": VERSION, "position": position}
        with _clear_errors():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(self._moving(state)),
                    data=ocp.args.JsonSave(position),
                ),
            )

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """The state, laid out by the shardings of `abstract_state`, and the data position.

        Raises InputError where the checkpoint is of another model, or another version of this
        package wrote it in a way that cannot be read.
        """
        place = Path(self._manager.directory) / str(step)
        moving = self._moving(abstract_state)
        try:
            data = self._restore(step, data=ocp.args.JsonRestore()).data
            version = data.get("version", 1)
            _check_version(place, version, moving)
            _check_shapes(place / "state", abstract_state.params, "policy")
            wanted = moving if version > 1 else _Version1.of(moving)
            found = self._restore(step, state=ocp.args.StandardRestore(wanted)).state
            found = found if version > 1 else found.as_now(moving)
            fixed = {
                name: state.replace(params=_restore_fixed(self._fixed[name], state.params))
                for name, state in abstract_state.models.items()
                if name in self._fixed
            }
        except InputError:
            raise
        except (ValueError, KeyError) as error:
            raise _misfit(place, error) from error
        position = data if version == 1 else data["position"]
        return found.replace(models={**found.models, **fixed}), position

    def _restore(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _moving(self, state: Any) -> Any:
        """The state without the models that never move."""
        models = {name: x for name, x in state.models.items() if name not in self._fixed}
        return state.replace(models=models)

    def wait(self) -> None:
        """Until everything is on disk. Raises OSError where it could not be written."""
        with _clear_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


@flax.struct.dataclass
class _Version1:
    """What a checkpoint held when a run had one model."""

    step: Any
    params: Any
    opt_state: Any
    counters: Any

    @classmethod
    def of(cls, state: Any) -> _Version1:
        policy = state.models["policy"]
        return cls(state.step, policy.params, policy.opt_state, state.counters)

    def as_now(self, like: Any) -> Any:
        policy = like.models["policy"].replace(params=self.params, opt_state=self.opt_state)
        return like.replace(step=self.step, models={"policy": policy}, counters=self.counters)


def _check_version(place: Path, version: int, moving: Any) -> None:
    if version > VERSION:
        raise InputError(
            f"{place}: written by a newer version of interact_jax (format {version}; this one "
            f"reads up to {VERSION}). Install that version to go on."
        )
    more = sorted(moving.models.keys() - {"policy"})
    if version == 1 and more:
        raise InputError(
            f"{place}: written by an earlier version of interact_jax, which kept no "
            f"{' and no '.join(more)} model: this run cannot be resumed from it. Use another "
            "--workdir, with --config.start_from to continue from its parameters."
        )


def _restore_fixed(place: Path, abstract_params: Any) -> Any:
    if not place.is_dir():
        raise InputError(
            f"{place}: not there. The run keeps a model there that never moves, and cannot be "
            "resumed without it: put it back, or use another --workdir (with --config.start_from "
            "to continue from the parameters)."
        )
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(place, {"params": abstract_params})["params"]


OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in what the writer reports


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """What the writer in the background reports of a full disk as ValueError is an OSError here."""
    try:
        yield
    except ValueError as error:
        if not (code := OS_ERROR.search(str(error))):
            raise
        number = int(code.group(1))
        raise OSError(number, f"{os.strerror(number)} while a checkpoint was written") from error


def say_errors_once() -> None:
    """Of a write that failed every array and every thread says so, each with a traceback: in a log,
    or by a callback to an event loop that has ended. `save` and `wait` raise the first; for a
    program that is enough."""
    for writer in ("absl", "asyncio"):
        logging.getLogger(writer).addFilter(_is_news)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _show_news


def _is_news(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, OSError) or OS_ERROR.search(str(error)))


def _show_news(raised: sys.UnraisableHookArgs) -> None:
    if str(raised.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(raised)


def _check_shapes(item: Path, abstract_params: Any, model: str) -> None:
    """Raise ValueError where the parameters of a saved state have other names or shapes.

    Asked before anything is read: a restore ends with the first array that does not fit, and those
    that are still being read then complain of its event loop, which is closed.
    """
    saved = ocp.PyTreeCheckpointHandler().metadata(item).tree
    for key in _path_to(saved, model):
        saved = saved[key]
    saved, here = _shapes(saved), _shapes(abstract_params)
    for name in sorted(saved.keys() | here.keys()):
        if saved.get(name) != here.get(name):
            raise ValueError(f"{name}: {saved.get(name)} saved, {here.get(name)} expected")


def _path_to(saved: Mapping[str, Any], model: str) -> tuple[str, ...]:
    """Where the parameters of a model stand in a saved state, whichever version wrote it."""
    models = saved.get("models", {"policy": None})
    if model not in models:
        raise InputError(f"a checkpoint has no model {model!r}. There is: {', '.join(models)}.")
    return ("models", model, "params") if "models" in saved else ("params",)


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    name = functools.partial(jax.tree_util.keystr, simple=True, separator=".")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {name(path): tuple(leaf.shape) for path, leaf in leaves}


def _misfit(place: str | Path, error: Exception) -> InputError:
    first = str(error).strip().splitlines()[0]
    return InputError(
        f"{place}: its parameters do not fit this model ({first[:300]}). "
        "Set model.path to the model that the checkpoint was trained from."
    )


def find(path: str) -> tuple[Path, int]:
    """(run directory, step) of `path`: a run's directory, its `checkpoints`, or one step in there.

    Raises InputError where there is none.
    """
    given = Path(path)
    run, step = given, None
    if given.name.isdigit() and given.parent.name == "checkpoints":
        run, step = given.parent.parent, int(given.name)
    elif given.name == "checkpoints":
        run = given.parent
    folder = run / "checkpoints"
    steps = sorted(int(p.name) for p in folder.glob("*") if p.is_dir() and p.name.isdigit())
    if not steps or (step is not None and step not in steps):
        raise InputError(
            f"{path}: no checkpoint there. Expected the --workdir of a run, or its "
            f"checkpoints/STEP; steps found: {steps or 'none'}."
        )
    return run, steps[-1] if step is None else step


def restore_params(path: str, abstract_params: Any, model: str = "policy") -> Any:
    """Only the parameters of one model of a checkpoint, laid out by the shardings of
    `abstract_params`."""
    run, step = find(path)
    item = (run / "checkpoints" / str(step) / "state").resolve()
    wanted: Any = abstract_params
    restore_args: Any = jax.tree.map(
        lambda x: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype, global_shape=x.shape),
        abstract_params,
    )
    try:
        _check_shapes(item, abstract_params, model)
        keys = _path_to(ocp.PyTreeCheckpointHandler().metadata(item).tree, model)
        for key in reversed(keys):
            wanted, restore_args = {key: wanted}, {key: restore_args}
        with ocp.PyTreeCheckpointer() as checkpointer:
            found = checkpointer.restore(
                item,
                ocp.args.PyTreeRestore(
                    item=wanted, restore_args=restore_args, partial_restore=True
                ),
            )
    except InputError:
        raise
    except (ValueError, KeyError) as error:
        raise _misfit(path, error) from error
    for key in keys:
        found = found[key]
    return found


def keep_model_files(source: Path, raw: Mapping[str, Any], tokenizer: Path, run: Path) -> Path:
    """Put config (`raw`, as it was read) and tokenizer into the run's `model/`; its path."""
    target = run / "model"
    target.mkdir(parents=True, exist_ok=True)
    hf.copy_tokenizer(tokenizer, target)
    text = json.dumps(raw, indent=2, ensure_ascii=False)
    (target / "config.json").write_text(text + "\n", encoding="utf-8")
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", target / "generation_config.json")
    return target
