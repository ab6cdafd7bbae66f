"""Log-probabilities that are known before training: computed once, and kept with the run.

What the initial model says of a reply is the same in every step. Where an objective needs no more
of it than the log-probability of y (dpo), it is computed before the first step, and the initial
model does not have to stay: WORKDIR/known/initial.npz has an array for every reply.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax import digests, files
from interact_jax.data.dataset import Dataset
from interact_jax.data.fingerprint import fingerprint, legacy_digests
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
    """The dataset with the log-probabilities that `names` asks for; `params` are those of step 0
    unless the run is resumed.

    Raises InputError where the logs hold none of a sampler's, or a resumed run has lost its own.
    """
    if SAMPLER in names:
        _check_sampler(dataset)
    if INITIAL not in names:
        return dataset
    file = workdir / "known" / f"{INITIAL}.npz"
    trees = dataset.trees_of(range(len(dataset.trees)))
    of = fingerprint(dataset)
    digest = "-".join((of["conversations"], of["contexts"], of["replies"]))
    if resumed:
        found = _read(file, digest, legacy_digests(dataset)["replies"])
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
        found = [one[PLAIN] for one in logps]
        _write(file, found, digest)
    return _with(dataset, found)


def _check_sampler(dataset: Dataset) -> None:
    targets = [r.target for trees in dataset.trees for tree in trees for r in tree.replies]
    have = sum(SAMPLER in target.known for target in targets)
    if not have:
        raise InputError(
            "objective.ratio or objective.importance asks for the sampler's log-probabilities, and "
            'no reply of the logs has any ("token_ids" and "logps" on an assistant message). '
            "Leave these settings off, or use objective.ratio=trainer."
        )
    if have < len(targets):
        log.warning(
            "%d of %d replies have no log-probabilities of a sampler; their ratios are 1",
            len(targets) - have,
            len(targets),
        )


def _with(dataset: Dataset, logps: list[np.ndarray]) -> Dataset:
    waiting = iter(logps)

    def one(tree: Tree) -> Tree:
        replies = []
        for reply in tree.replies:
            known = {**reply.target.known, INITIAL: next(waiting)}
            target = dataclasses.replace(reply.target, known=known)
            replies.append(dataclasses.replace(reply, target=target))
        return dataclasses.replace(tree, replies=tuple(replies))

    trees = [[one(tree) for tree in trees] for trees in dataset.trees]
    return dataclasses.replace(dataset, trees=trees)


def _write(file: Path, logps: list[np.ndarray], digest: str) -> None:
    lengths = np.array([len(x) for x in logps])
    with files.whole_directory(file.parent) as partial:
        np.savez(partial / file.name, lengths=lengths, logps=np.concatenate(logps), digest=digest)
        digests.seal(partial)


def _read(file: Path, digest: str, earlier: int) -> list[np.ndarray]:
    """`earlier` is the digest that a version before this one kept, a number."""
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
    except Exception as error:  # damaged ones fail in many ways
        raise InputError(f"{file}: cannot be read ({error}). {remedy}") from error
