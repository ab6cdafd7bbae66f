"""What a run learns from, opened in two parts: before the weights are loaded, and after.

feed = open_feed(cfg, model, method, workdir, kept)   what can be refused is refused here
feed.packing, feed.trees                              programs are compiled for these
source = feed.open(params, saved)                     the batches, from where the run was
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from interact_jax import known, sharding
from interact_jax.cluster import processes
from interact_jax.data import holdout, mixture
from interact_jax.data.conversations import ReadReport
from interact_jax.data.dataset import SETTINGS, Dataset, grow, load_dataset
from interact_jax.data.draws import Draws
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.first_steps import first_trees, packing_for
from interact_jax.data.indexing import make_all
from interact_jax.data.limits import Limits
from interact_jax.data.mixed import MixedDataset, with_own_id
from interact_jax.data.order import Order
from interact_jax.data.pipeline import BatchSource, LogBatches
from interact_jax.data.prepared import PreparedData, is_prepared, splits_of
from interact_jax.data.reading import Data
from interact_jax.data.records import find_files
from interact_jax.data.rows import Packing
from interact_jax.data.shares import Share, share_of
from interact_jax.data.stored import TREES, StoredDataset, cache_folder
from interact_jax.data.tokenise import Tokeniser
from interact_jax.data.tree import Tree
from interact_jax.held_out import HeldOut
from interact_jax.methods import Method
from interact_jax.online.feed import RolloutFeed, check_replay, is_online
from interact_jax.online.record import Record
from interact_jax.opening import OpenedModel
from interact_jax.printable import count
from interact_jax.schema import Conversation, InputError
from interact_jax.teachers import INITIAL

log = logging.getLogger(__name__)

HELD_OUT = "validation"  # the split of prepared data to measure by
OF_FILES = ("format", "mapping", "repair", "copies", "max_bytes")
"""Settings `data.*` that say how files are read: prepared data were read before."""
SHOWN = 256  # conversations of prepared data from which the report's examples are taken


class Feed(Protocol):
    """`trees` are those of a step, and `packing` their rows; `held_out` is what the run does not
    learn from, to measure by; `dataset` the logs, if there are any; `copies` how many copies of the
    policy's parameters it keeps while a step is computed."""

    @property
    def packing(self) -> Packing: ...
    @property
    def trees(self) -> Sequence[Tree]: ...
    @property
    def held_out(self) -> HeldOut | None: ...
    @property
    def dataset(self) -> Dataset | None: ...
    @property
    def copies(self) -> int: ...

    def open(self, params: Any, saved: Mapping[str, Any]) -> BatchSource:
        """The batches of a run with these parameters; `saved` is what its checkpoint kept, empty
        for a new run. Raises InputError where that was in other data."""
        ...


def check_files(cfg: Any) -> None:
    """Raise InputError where there is no file of logs, or no record that can be replayed: before a
    model is downloaded for them."""
    check_replay(cfg)
    if cfg.data.mixture:
        for each in mixture.parse(cfg.data.mixture):
            if not is_prepared(each.path):
                raise InputError(
                    f"data.mixture={cfg.data.mixture}: {each.path}: no prepared data there. "
                    f"`interact prepare-data` makes it; {mixture.EXPECTED}."
                )
    elif not is_online(cfg) and cfg.data.path != "pocket" and not is_prepared(cfg.data.path):
        find_files(cfg.data.path)


def open_feed(
    cfg: Any, model: OpenedModel, method: Method, workdir: Path, kept: Mapping[str, Any]
) -> Feed:
    """What the settings say: logs, or conversations that are yet to be had. `kept` is what the
    newest checkpoint of a run keeps beside its state, empty for a new run.

    Raises InputError for data that cannot be read, or are not those that the run began with.
    """
    kind = RolloutFeed if is_online(cfg) else LogFeed
    return kind(cfg, model, method, workdir, kept)


def has_record(cfg: Any, workdir: Path) -> bool:
    """Whether an online run has left steps in `workdir` that it will learn from again, even where
    there is no checkpoint yet."""
    return bool(cfg.online.prompts) and len(Record(workdir)) > 0


class LogFeed:
    """Conversations of files, or prepared ones."""

    copies = 0

    def __init__(
        self,
        cfg: Any,
        model: OpenedModel,
        method: Method,
        workdir: Path,
        kept: Mapping[str, Any],
    ):
        log.info("reading %s", cfg.data.mixture or cfg.data.path)
        is_stored = bool(cfg.data.mixture) or is_prepared(cfg.data.path)
        data, self.dataset, held_out = (_open_prepared if is_stored else _read_files)(
            cfg, model, method
        )
        if kept:
            if "step" in kept["position"]:
                raise InputError(
                    "the run to be resumed learned online. Set online.prompts as it was, or use "
                    "another --workdir (with --config.start_from to continue from the parameters)."
                )
            known.check_resumed(data, method.known, kept)
        self.held_out = HeldOut.of(held_out, model, cfg)
        self.share = share_of(cfg, model.mesh)
        if self.share is not None:
            _make_trees(data, self.share)
        course = data.course(cfg.seed) if isinstance(data, MixedDataset) else None
        self.draws = Draws(data.interactions, cfg.batch, cfg.seed, cfg.epochs, course)
        height = cfg.batch.rows * sharding.row_shards(model.mesh)
        self.packing = packing_for(
            data,
            self.draws,
            cfg.batch.row_tokens,
            height,
            cfg.objective.ignore_first,
            method.known,
        )
        log.info("%s", self.packing)
        self.trees = first_trees(data, self.draws)
        self._data, self._cfg, self._model = data, cfg, model
        self._method, self._workdir = method, workdir

    def open(self, params: Any, saved: Mapping[str, Any]) -> LogBatches:
        if isinstance(self._data, Dataset):
            self._data = self.dataset = known.complete(
                self._data,
                self._method.known,
                self._model,
                params,
                self._cfg,
                self._workdir,
                resumed=bool(saved),
            )
        source = LogBatches(self._data, self.draws, self.packing, Limits.of(self._cfg), self.share)
        if saved:
            source.seek(saved["position"])
        if isinstance(self._data, MixedDataset):
            for line in self._data.read_lines(source.place):
                log.info("%s", line)
        return source


def _make_trees(data: Data, share: Share) -> None:
    """Make all trees of prepared data, each process its share: rows are planned by their sizes.
    What is lost of a conversation counts when it is read."""
    for part in getattr(data, "parts", [data]):
        if isinstance(part, StoredDataset):
            _check_is_shared(part.store.folder)
            make_all(part, share)
            part.count_anew()


def _check_is_shared(folder: Path) -> None:
    """Raise InputError where a folder of trees is not the same one for all processes: each would
    wait for those that the others make."""
    token = folder / f"seen-{processes.of_first('token', secrets.token_hex(8))}"
    if processes.is_first() and os.access(folder, os.W_OK):
        token.touch()
    processes.meet("token put")
    is_here = token.exists() or not os.access(folder, os.W_OK)  # complete, and only read
    seen = processes.exchange("token seen", "yes" if is_here else "")
    if processes.is_first():
        token.unlink(missing_ok=True)
    if others := [n for n, is_seen in enumerate(seen) if not is_seen]:
        raise InputError(
            f"{folder}: process {', '.join(map(str, others))} has another folder of this name. "
            "Token trees are made by all processes together: set data.cache to a directory that "
            "all machines share, or make them beforehand: `interact prepare-data --config FILE`."
        )


Opened = tuple[Data, Dataset, Sequence[Conversation]]
"""What is learned, all or the first of it in memory, and what is held out."""


def _read_files(cfg: Any, model: OpenedModel, method: Method) -> Opened:
    dataset = load_dataset(
        cfg.data.path,
        cfg.data.format,
        model.chat,
        EncodeSettings.of(cfg),
        cfg.sharing,
        cfg.data.workers,
        method.recipe,
    )
    for line in dataset.lines():
        log.info("%s", line)
    dataset, held_out = holdout.split(dataset, cfg.evaluation.holdout)
    log.info("%s", holdout.describe(held_out, dataset, cfg.evaluation.holdout))
    return dataset, dataset, held_out


def _open_prepared(cfg: Any, model: OpenedModel, method: Method) -> Opened:
    """Prepared data, and their own split to measure by."""
    if INITIAL in method.known:
        raise InputError(
            f"objective.name={cfg.objective.name} needs the initial model's log-probabilities of "
            "every reply before the first step, and those of prepared data are not kept. Set "
            "data.path to files that fit into memory."
        )
    settings, chat = EncodeSettings.of(cfg), model.chat
    tokeniser = Tokeniser(chat, settings, cfg.sharing, method.recipe)
    folder = cache_folder(cfg.data.cache)
    weighted = [mixture.Weighted(cfg.data.path, Fraction(1))]
    if cfg.data.mixture:
        weighted = mixture.parse(cfg.data.mixture)
    workers = mixture.workers_of(cfg.data.workers, weighted)
    shards = [PreparedData(each.path) for each in weighted]
    for each in shards:
        if not len(each):
            raise InputError(
                f"{each.directory}: the split {each.split!r} has no conversation. Its README.md "
                "says what was left out, and why."
            )
    parts = [
        StoredDataset(each, tokeniser, folder, processes, beside=each.directory / TREES)
        for each, processes in zip(shards, workers, strict=True)
    ]
    data = MixedDataset(parts, weighted) if cfg.data.mixture else parts[0]
    if unused := settings_without_effect(cfg):
        log.warning(
            "%s: without effect on prepared data; give `interact prepare-data` the option or the "
            "filter instead",
            ", ".join(unused),
        )
    for line in data.lines():
        log.info("%s", line)
    first = _sample(weighted, shards, [Order(len(each), None) for each in shards], SHOWN)
    sample = grow(first, ReadReport(), chat, settings, cfg.sharing, recipe=method.recipe)
    held_out = _held_out(cfg, weighted)
    log.info(
        "held out, to measure by: %s",
        f"{count(len(held_out), 'conversation')} of the split {HELD_OUT}"
        if held_out
        else "nothing",
    )
    return data, sample, held_out


def settings_without_effect(cfg: Any) -> list[str]:
    """Those that say how files are read, where they are not as they are by default."""
    return [
        f"data.{name}={cfg.data[name]}"
        for name in OF_FILES
        if cfg.data[name] != SETTINGS[f"data.{name}"].default
    ]


def _held_out(cfg: Any, weighted: Sequence[mixture.Weighted]) -> list[Conversation]:
    """Some conversations of the splits to measure by, more than are measured; none without them."""
    having = [each for each in weighted if HELD_OUT in splits_of(each.path)]
    if not cfg.evaluation.holdout:
        return []
    splits = [PreparedData(each.path, HELD_OUT) for each in having]
    orders = [Order(len(each), seed=0) for each in splits]
    return _sample(having, splits, orders, 2 * cfg.evaluation.interactions)


def _sample(
    weighted: Sequence[mixture.Weighted],
    shards: Sequence[PreparedData],
    orders: Sequence[Order],
    most: int,
) -> list[Conversation]:
    """The first conversations of these orders, by weight, at most so many."""
    chosen = mixture.interleaved(list(map(len, shards)), weighted, most)
    found = [
        iter(data.batch([order[n] for own, n in chosen if own == part]))
        for part, (data, order) in enumerate(zip(shards, orders, strict=True))
    ]
    if len(weighted) == 1:
        return list(found[0])
    return [with_own_id(next(found[part]), weighted[part].path) for part, _ in chosen]
