"""Log-probabilities that are known before training: computed once, and saved with the run.

The initial model's log-probabilities of a reply are the same in every step. Where an objective
needs only those of y (dpo), they are computed before the first step, and the initial model is not
kept: WORKDIR/known/initial.npz has an array for every reply.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax import digests, files
from interact_jax.cluster import processes
from interact_jax.data.dataset import Dataset
from interact_jax.data.fingerprint import DIFFERENCES, fingerprint, legacy_digests
from interact_jax.data.forest import Forest
from interact_jax.data.positions import check_position
from interact_jax.data.reading import Data
from interact_jax.data.recipes import PLAIN
from interact_jax.data.tree import Tree
from interact_jax.opening import OpenedModel
from interact_jax.saved import check
from interact_jax.schema import InputError
from interact_jax.signal import logps_of
from interact_jax.teachers import INITIAL

log = logging.getLogger(__name__)

SAMPLER = "sampler"


def complete(
    dataset: Dataset,
    names: Collection[str],
    model: OpenedModel,
    params: Any,
    cfg: Any,
    workdir: Path,
    resumed: bool,
) -> Dataset:
    """The dataset with the log-probabilities that `names` lists; `params` are those of step 0
    unless the run is resumed.

    Raises InputError where the logs have no sampler's log-probabilities, or a resumed run has lost
    those of its initial model.
    """
    if SAMPLER in names:
        _check_sampler(dataset)
    if INITIAL not in names:
        return dataset
    file = workdir / "known" / f"{INITIAL}.npz"
    trees = dataset.trees_of(range(len(dataset.trees)))
    prints = fingerprint(dataset)
    digest = "-".join((prints["conversations"], prints["contexts"], prints["replies"]))
    if resumed:
        initial = _read(file, digest, legacy_digests(dataset)["replies"])
    else:
        log.info("computing the log-probabilities of the initial model")
        logps = logps_of(
            model.decoder,
            params,
            trees,
            model.mesh,
            (PLAIN,),
            sharing=cfg.sharing,
            row_tokens=cfg.batch.row_tokens,
            rows=cfg.batch.rows,
        )
        initial = [by_view[PLAIN] for by_view in logps]
        if processes.is_first():
            _write(file, initial, digest)
    return _add_initial(dataset, initial)


def check_resumed(dataset: Data, names: Collection[str], kept: Mapping[str, Any]) -> None:
    """Raise InputError where a run was begun with other data than `dataset`, which is not completed
    yet: `kept` is what its checkpoint has beside the state."""
    if "position" in kept:
        parts = [part for part in DIFFERENCES if part != "weights" or INITIAL not in names]
        check_position(dataset, kept["position"], parts)


def _check_sampler(dataset: Dataset) -> None:
    targets = [r.target for trees in dataset.trees for tree in trees for r in tree.replies]
    count = sum(SAMPLER in target.known for target in targets)
    if not count:
        raise InputError(
            "objective.ratio or objective.importance asks for the sampler's log-probabilities, and "
            'no reply of the logs has any ("token_ids" and "logps" on an assistant message). '
            "Leave these settings off, or use objective.ratio=trainer."
        )
    if count < len(targets):
        log.warning(
            "%d of %d replies have no log-probabilities of a sampler; their ratios are 1",
            len(targets) - count,
            len(targets),
        )


def _add_initial(dataset: Dataset, logps: list[np.ndarray]) -> Dataset:
    remaining = iter(logps)

    def add_to(tree: Tree) -> Tree:
        replies = []
        for reply in tree.replies:
            known = {**reply.target.known, INITIAL: next(remaining)}
            target = dataclasses.replace(reply.target, known=known)
            replies.append(dataclasses.replace(reply, target=target))
        return dataclasses.replace(tree, replies=tuple(replies))

    trees = [Forest.of([add_to(tree) for tree in trees]) for trees in dataset.trees]
    return dataclasses.replace(dataset, trees=trees)


def _write(file: Path, logps: list[np.ndarray], digest: str) -> None:
    lengths = np.array([len(x) for x in logps])
    with files.whole_directory(file.parent) as partial:
        np.savez(partial / file.name, lengths=lengths, logps=np.concatenate(logps), digest=digest)
        digests.seal(partial)


def _read(file: Path, digest: str, earlier: int) -> list[np.ndarray]:
    """`earlier` is the digest as an earlier version saved it, a number."""
    remedy = (
        "The run keeps there what its initial model said of every reply, and cannot be resumed "
        "without it. Use another --workdir (with --config.start_from to continue from the "
        "parameters)."
    )
    check(file.parent, remedy, needed=False)
    try:
        with np.load(file) as kept:
            if kept["digest"].item() not in (digest, earlier):
                raise ValueError("it is of other replies than the data has now")
            ends = np.cumsum(kept["lengths"])[:-1]
            return np.split(kept["logps"], ends)
    except Exception as error:  # damaged files fail in many ways
        raise InputError(f"{file}: cannot be read ({error}). {remedy}") from error
