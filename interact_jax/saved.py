"""One checkpoint on disk: whether it is complete, and its content.

CHECKPOINT/state       Orbax: the models that change, the optimiser, the counters
CHECKPOINT/data        a JSON object: the version of the format, and what else a run saves
CHECKPOINT/digests-*   of every file, written last (`digests`)

Version 1 had one model, and only the position in data; 1 and 2 had no digests.
"""

from __future__ import annotations

import contextlib
import logging
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np
import orbax.checkpoint as ocp

from interact_jax import digests, store
from interact_jax.cluster import processes
from interact_jax.digests import Damaged
from interact_jax.schema import InputError, RunStopped
from interact_jax.store import Place

log = logging.getLogger(__name__)

VERSION = 3
SEALED_FROM = 3
AT_A_TIME = 0.25  # of what a process wants of a state, that it may be reading at a time
MARGIN = 16_000_000  # bytes; Orbax refuses an array that needs all of it
WIDEST = 8  # bytes of a number, where it is not known
NO_DIGESTS = "%s has no digests, since an earlier version wrote it: damage would not be detected"


def is_finished(place: Place) -> bool:
    """Whether a checkpoint was completely written. One that cannot be read counts as finished: it
    is damaged, and must be reported."""
    if digests.is_sealed(place):
        return True
    if not store.of(place).renames:  # what is there may be the beginning of it
        return False
    try:
        return _version(_read_data(place)) < SEALED_FROM
    except Damaged:
        return True


def read(place: Place, moving: Any) -> tuple[Any, dict[str, Any]]:
    """The state, laid out by the shardings of `moving`, and what was kept with it.

    Raises Damaged where it differs from what was written, or was copied there from another step;
    InputError where it belongs to another model or version.
    """
    sealed = check(place)
    version = _version(_read_data(place))
    _check_version(place, version, moving)
    _check_shapes(place, moving.params, "policy", sealed)
    wanted = moving if version > 1 else _Version1.of(moving)
    item = store.resolved(place / "state")
    with _translate_errors(place, sealed), _reading_in_parts(item, wanted) as checkpointer:
        restored = checkpointer.restore(item, wanted)
    _check_step(place, restored.step)
    return restored.to_current(moving) if version == 1 else restored, read_kept(place)


def read_kept(place: Place) -> dict[str, Any]:
    """What was kept with a state, alone: only its own digests are compared. Raises Damaged."""
    digests.check(place, unread=lambda name: not name.startswith("data/"))
    data = _read_data(place)
    if _version(data) == 1:
        return {"position": data}
    return {name: value for name, value in data.items() if name != "version"}


def read_params(place: Place, abstract_params: Any, model: str, remedy: str) -> Any:
    """Only the parameters of one model. Raises as `read` does."""
    sealed = check(place, remedy)
    item = store.resolved(place / "state")
    wanted: Any = abstract_params
    restore_args: Any = jax.tree.map(
        lambda x: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype, global_shape=x.shape),
        abstract_params,
    )
    keys = _check_shapes(place, abstract_params, model, sealed)
    for key in reversed(keys):
        wanted, restore_args = {key: wanted}, {key: restore_args}
    wanted["step"], restore_args["step"] = 0, ocp.RestoreArgs(restore_type=np.ndarray)
    request = ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True)
    with _translate_errors(place, sealed):
        at_a_time = _gigabytes_at_a_time(item, abstract_params)
        handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=at_a_time)
        with ocp.Checkpointer(handler) as checkpointer:
            restored = checkpointer.restore(item, request)
    _check_step(place, restored["step"], remedy)
    for key in keys:
        restored = restored[key]
    return restored


def read_fixed(place: Place, abstract_params: Any) -> Any:
    """A model that never changes; it is saved once, so there is nothing to fall back to."""
    remedy = (
        "The run keeps a model there that never moves, and cannot be resumed without it: put it "
        "back, or use another --workdir (with --config.start_from to continue from the parameters)."
    )
    if not store.of(place).is_dir(place):
        raise InputError(f"{place}: not there. {remedy}")
    sealed = check(place, remedy, needed=False)
    item, wanted = store.resolved(place), {"params": abstract_params}
    with _translate_errors(place, sealed), _reading_in_parts(item, wanted) as checkpointer:
        return checkpointer.restore(item, wanted)["params"]


def check(place: Place, remedy: str = "", needed: bool = True) -> bool:
    """`digests.check`, of which each process does its share; logs a warning where there are
    none."""
    own, count, error = jax.process_index(), jax.process_count(), ""
    try:
        # Shared out by name: on a network's file system not all need see the same list.
        sealed = digests.check(
            place, remedy, needed, lambda name: zlib.crc32(name.encode()) % count != own
        )
    except Damaged as damaged:
        if count == 1:
            raise
        sealed, error = True, str(damaged)
    if count > 1:
        found = processes.exchange("damage", error, processes.LONG_SECONDS)
        if error := next(filter(None, found), ""):
            raise Damaged(error)
    if not sealed:
        log.warning(NO_DIGESTS, place)
    return sealed


def _reading_in_parts(item: Place, wanted: Any) -> ocp.StandardCheckpointer:
    at_a_time = _gigabytes_at_a_time(item, wanted)
    return ocp.StandardCheckpointer(restore_concurrent_gb=at_a_time)


def _gigabytes_at_a_time(item: Place, wanted: Any) -> float:
    """How much of a state a process reads at a time: AT_A_TIME of what it wants, but no less than
    its largest array needs. Orbax by itself reads all at once, and has most of it twice meanwhile.
    """
    saved = ocp.PyTreeCheckpointHandler().metadata(item).tree
    stored = {
        _name(path): (leaf.storage.chunk_shape, np.dtype(leaf.dtype).itemsize)
        for path, leaf in jax.tree_util.tree_leaves_with_path(saved)
        if getattr(leaf, "storage", None) is not None
    }
    sizes = [0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        # All models have parameters of the same names, which are stored alike.
        found = [each for name, each in stored.items() if name.endswith(_name(path))]
        parts = leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
        for bounds in {_bounds(part, leaf.shape) for part in parts}:
            kinds = found or [(leaf.shape, WIDEST)]
            sizes.append(max(_bytes_read(bounds, *kind) for kind in kinds))
    return (max(*sizes, sum(sizes) * AT_A_TIME) + MARGIN) / 1e9


def _bounds(part: Sequence[slice], shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(along.indices(size)[:2] for along, size in zip(part, shape, strict=True))


def _bytes_read(bounds: Sequence[tuple[int, int]], chunk: Sequence[int], itemsize: int) -> int:
    """Bytes of the chunks of this shape in which a part of an array lies."""
    chunks = [
        -(-stop // size) - start // size
        for (start, stop), size in zip(bounds, chunk, strict=True)
        if size
    ]
    return math.prod([itemsize, *chunks, *filter(None, chunk)])


@contextlib.contextmanager
def _translate_errors(place: Place, sealed: bool) -> Iterator[None]:
    """Turn Orbax's many kinds of read errors into InputErrors. Without digests, damage is the
    likely cause."""
    try:
        yield
    except (
        jax.errors.JaxRuntimeError,
        InputError,
        RunStopped,
    ):  # of the device: out of memory, say
        raise
    except Exception as error:
        store.of(place).blame(place, error)
        message = f"{type(error).__name__}: {_first_line(error)}"
        if not sealed:
            raise Damaged(f"{place} is damaged: it cannot be read ({message})") from error
        raise InputError(
            f"{place}: cannot be read ({message}), though it is as it was written. Go on with the "
            "versions of orbax-checkpoint and interact_jax that wrote it."
        ) from error


def _read_data(place: Place) -> dict[str, Any]:
    try:
        data = ocp.JsonCheckpointHandler().restore(store.resolved(place / "data"))
        _version(data)
        return data
    except Exception as error:
        store.of(place).blame(place, error)
        message = f"data cannot be read ({_first_line(error)})"
        raise Damaged(f"{place} is damaged: {message}") from error


def _check_step(place: Place, step: Any, remedy: str = "") -> None:
    if int(step) != int(place.name):  # a copy under another name
        message = f"{place} is damaged: it is of step {int(step)}"
        raise Damaged(f"{message}. {remedy}" if remedy else message)


def _version(data: Mapping[str, Any]) -> int:
    return int(data.get("version", 1))


def _check_version(place: Place, version: int, moving: Any) -> None:
    if version > VERSION:
        raise InputError(
            f"{place}: written by a newer version of interact_jax (format {version}; this one "
            f"reads up to {VERSION}). Install that version to go on."
        )
    others = sorted(moving.models.keys() - {"policy"})
    if version == 1 and others:
        raise InputError(
            f"{place}: written by an earlier version of interact_jax, which kept no "
            f"{' and no '.join(others)} model: this run cannot be resumed from it. Use another "
            "--workdir, with --config.start_from to continue from its parameters."
        )


@flax.struct.dataclass
class _Version1:
    """The content of a checkpoint of version 1."""

    step: Any
    params: Any
    opt_state: Any
    counters: Any

    @classmethod
    def of(cls, state: Any) -> _Version1:
        policy = state.models["policy"]
        return cls(state.step, policy.params, policy.opt_state, state.counters)

    def to_current(self, like: Any) -> Any:
        policy = like.models["policy"].replace(params=self.params, opt_state=self.opt_state)
        return like.replace(step=self.step, models={"policy": policy}, counters=self.counters)


def _check_shapes(place: Place, abstract_params: Any, model: str, sealed: bool) -> tuple[str, ...]:
    """Check the saved shapes of a model's parameters; returns the keys that lead to them.

    Raises InputError where they have other names or shapes. Done before anything is read: a restore
    fails at the first array that does not fit, and the pending reads then complain that its event
    loop is closed.
    """
    with _translate_errors(place, sealed):
        saved = ocp.PyTreeCheckpointHandler().metadata(store.resolved(place / "state")).tree
        keys = _path_to(saved, model)
        for key in keys:
            saved = saved[key]
        saved, here = _shapes(saved), _shapes(abstract_params)
    for name in sorted(saved.keys() | here.keys()):
        if saved.get(name) != here.get(name):
            raise InputError(
                f"{place}: its parameters do not fit this model ({name}: {saved.get(name)} saved, "
                f"{here.get(name)} expected). Set model.path to the model that the checkpoint was "
                f"trained from{'' if sealed else '; or it is damaged'}."
            )
    return keys


def _path_to(saved: Mapping[str, Any], model: str) -> tuple[str, ...]:
    models = saved.get("models", {"policy": None})  # version 1 has one model
    if model not in models:
        raise InputError(f"a checkpoint has no model {model!r}. Available: {', '.join(models)}.")
    return ("models", model, "params") if "models" in saved else ("params",)


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:300]
