"""The sampler of an opened model: one home for how it is made."""

from __future__ import annotations

from typing import Any

from interact_jax.generation.sampler import Sampler
from interact_jax.opening import OpenedModel

ROWS = 64  # sequences at a time


def sampler_of(model: OpenedModel, *, rows: int = ROWS, whole_vocabulary: bool = False) -> Sampler:
    """A sampler of the model on its mesh, without parameters yet.

    `whole_vocabulary` also draws ids that the tokenizer does not have, as other libraries do.
    """
    return Sampler(
        model.decoder,
        model.eos_ids,
        rows=rows,
        vocab_limit=None if whole_vocabulary else len(model.chat.tokenizer),
        mesh=model.mesh,
        decode=model.chat.decode,
    )


def open_engine(
    model: OpenedModel, params: Any, *, rows: int = ROWS, whole_vocabulary: bool = False
) -> Sampler:
    """The same, with these parameters."""
    sampler = sampler_of(model, rows=rows, whole_vocabulary=whole_vocabulary)
    sampler.load(params)
    return sampler
