"""Checkpoints: the training state and the data position, by Orbax, asynchronously.

A run's directory holds `checkpoints/STEP/` and `model/` (config and tokenizer of the model, without
weights), so that a checkpoint can be exported without the model it once came from.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from interact_jax.schema import InputError

MODEL_FILES = ("*.json", "*.jinja", "*.txt", "tokenizer.model")


class Checkpoints:
    """The checkpoints of one run; an unfinished one (crash, full disk) is never seen again."""

    def __init__(self, workdir: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager((workdir / "checkpoints").resolve(), options=options)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Copy the state off the device and go on; the files are written in the background.

        Raises OSError where the one before could not be written.
        """
        with _clear_errors():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(position)
                ),
            )

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """The state, laid out by the shardings of `abstract_state`, and the data position.

        Raises InputError where the checkpoint is of another model.
        """
        place = Path(self._manager.directory) / str(step)
        try:
            _check_shapes(place / "state", abstract_state.params)
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError) as error:
            raise _misfit(place, error) from error
        return found.state, found.data

    def wait(self) -> None:
        """Until everything is on disk. Raises OSError where it could not be written."""
        with _clear_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """What the writer in the background reports of a full disk as ValueError is an OSError here."""
    try:
        yield
    except ValueError as error:
        if not (code := re.search(r"os_error_code='(\d+)'", str(error))):
            raise
        # One message is enough: every other array's write would report the same at exit.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        number = int(code.group(1))
        raise OSError(number, f"{os.strerror(number)} while a checkpoint was written") from error


def _check_shapes(item: Path, abstract_params: Any) -> None:
    """Raise ValueError where the parameters of a saved state have other names or shapes.

    Asked before anything is read: a restore ends with the first array that does not fit, and those
    that are still being read then complain of its event loop, which is closed.
    """
    saved = _shapes(ocp.PyTreeCheckpointHandler().metadata(item).tree["params"])
    here = _shapes(abstract_params)
    for name in sorted(saved.keys() | here.keys()):
        if saved.get(name) != here.get(name):
            raise ValueError(f"{name}: {saved.get(name)} saved, {here.get(name)} expected")


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


def restore_params(path: str, abstract_params: Any) -> Any:
    """Only the parameters of a checkpoint, laid out by the shardings of `abstract_params`."""
    run, step = find(path)
    item = (run / "checkpoints" / str(step) / "state").resolve()
    restore_args = jax.tree.map(
        lambda x: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype, global_shape=x.shape),
        abstract_params,
    )
    try:
        _check_shapes(item, abstract_params)
        with ocp.PyTreeCheckpointer() as checkpointer:
            found = checkpointer.restore(
                item,
                ocp.args.PyTreeRestore(
                    item={"params": abstract_params},
                    restore_args={"params": restore_args},
                    partial_restore=True,
                ),
            )
    except (ValueError, KeyError) as error:
        raise _misfit(path, error) from error
    return found["params"]


def keep_model_files(source: Path, tokenizer: Path, run: Path) -> Path:
    """Copy config and tokenizer (no weights) into the run's `model/`; its path."""
    target = run / "model"
    target.mkdir(parents=True, exist_ok=True)
    for folder in (tokenizer, source):  # the model's own config.json has the last word
        for pattern in MODEL_FILES:
            for file in folder.glob(pattern):
                if folder is source and tokenizer != source and file.name not in OF_THE_MODEL:
                    continue
                if not file.name.endswith("safetensors.index.json"):
                    shutil.copyfile(file, target / file.name)
    return target


OF_THE_MODEL = ("config.json", "generation_config.json")
