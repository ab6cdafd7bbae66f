"""What is planned: a model, and trees to fill its rows with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from interact_jax import bench
from interact_jax.data.dataset import load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.pack import pack
from interact_jax.data.shapes import full_row
from interact_jax.data.tree import Size, Tree, split
from interact_jax.methods import method_of
from interact_jax.models import hf
from interact_jax.models.families import DecoderConfig
from interact_jax.opening import chat_for
from interact_jax.places import check_name
from interact_jax.schema import Batch

SMALL_DATA = 50e6  # bytes; data up to this size is read, to see how it fills rows


@dataclasses.dataclass(frozen=True)
class Work:
    """A model, and trees to fill its rows with; the same on any slice."""

    name: str
    model: DecoderConfig
    trees: Sequence[Tree]
    data: str  # a description of where the trees are from
    synthetic: bool = False


def synthetic_work(cfg: ConfigDict, model: DecoderConfig, name: str) -> Work:
    """Dialogues of turns of 64 + 192 tokens, at most half a row long.

    Qwen3's template renders replies in the history differently from how they were generated, so for
    that family every turn but the last is a branch of the student, too.
    """
    dialogue = bench.Dialogue(
        student_branches=model.model_type == "qwen3", recipe=method_of(cfg).recipe
    )
    most = max(
        1, min(dialogue.turns, cfg.batch.row_tokens // 2 // (dialogue.user + dialogue.reply))
    )
    rng = np.random.default_rng(0)
    trees: list[Tree] = []
    while sum(tree.size.T for tree in trees) < 2 * cfg.batch.row_tokens:
        for turns in range(most, 0, -1):
            variant = dataclasses.replace(dialogue, turns=turns)
            trees += variant.trees(cfg.sharing, rng, model.vocab_size, f"c{len(trees)}")
    description = (
        f"synthetic dialogues of up to {most} turns of {dialogue.user} + {dialogue.reply} tokens, "
        f"follow-ups of {dialogue.followup}"
    )
    if dialogue.student_branches:
        description += ", replies rendered otherwise in the history"
    return Work(name, model, trees, description, synthetic=True)


def work_of(cfg: ConfigDict) -> Work:
    """The model and, if it exists and is small, the data of a config; else synthetic dialogues."""
    directory = hf.resolve(cfg.model.path, weights=False)
    _, model = hf.load_config(directory, weights=cfg.model.init == "pretrained")
    if not cfg.data.path:  # an online run, or prepared data
        return synthetic_work(cfg, model, cfg.model.path)
    check_name(f"data.path={cfg.data.path}", cfg.data.path)
    file = Path(cfg.data.path)
    small = file.is_file() and file.stat().st_size <= SMALL_DATA
    if cfg.data.path != "pocket" and not small:
        return synthetic_work(cfg, model, cfg.model.path)
    dataset = load_dataset(
        cfg.data.path,
        cfg.data.format,
        chat_for(cfg),
        EncodeSettings.of(cfg),
        cfg.sharing,
        recipe=method_of(cfg).recipe,
    )
    return Work(cfg.model.path, model, dataset.trees_of(range(len(dataset.trees))), cfg.data.path)


def rows_of(cfg: ConfigDict, work: Work, height: int) -> Batch:
    """The largest micro-batch in training: `height` rows, filled by the work as far as it fits."""
    trees, row_tokens = work.trees, cfg.batch.row_tokens
    full = full_row(trees, row_tokens)
    parts = sorted((p for t in trees for p in split(t, full)), key=lambda t: -t.size.T)
    row, used = [], Size(0, 0, 0, 0, 0)
    for tree in parts:
        if (used + tree.size).fits(full):
            row.append(tree)
            used = used + tree.size
    known = method_of(cfg).known
    return pack([row] * height, full, height, cfg.objective.ignore_first, known=known)[0]
