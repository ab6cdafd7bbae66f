"""The engine of this process for an opened model."""

from __future__ import annotations

from typing import Any

from interact_jax.generation.sampler import Sampler
from interact_jax.opening import OpenedModel

ROWS = 64  # sequences at a time


def open_engine(
    model: OpenedModel, params: Any, *, rows: int = ROWS, whole_vocabulary: bool = False
) -> Sampler:
    """A sampler of an opened model on its mesh, with these parameters.

    `whole_vocabulary` also draws ids that the tokenizer does not have, as other libraries do.
    """
    sampler = Sampler(
        model.decoder,
        model.eos_ids,
        rows=rows,
        vocab_limit=None if whole_vocabulary else len(model.chat.tokenizer),
        mesh=model.mesh,
        decode=model.chat.decode,
    )
    sampler.load(params)
    return sampler
