"""The samplers of models of this process: one home for how they are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from interact_jax.data.chat import ChatFormat
from interact_jax.generation.sampler import Sampler
from interact_jax.models.decoder import Decoder
from interact_jax.opening import OpenedModel

ROWS = 64  # sequences at a time


def make_sampler(
    decoder: Decoder,
    chat: ChatFormat,
    eos_ids: Sequence[int],
    mesh: Mesh | None,
    *,
    rows: int = ROWS,
    whole_vocabulary: bool = False,
) -> Sampler:
    """A sampler without parameters yet, which draws only ids that the tokenizer has.

    `whole_vocabulary` also draws the others, as other libraries do.
    """
    return Sampler(
        decoder,
        eos_ids,
        rows=rows,
        vocab_limit=None if whole_vocabulary else len(chat.tokenizer),
        mesh=mesh,
        decode=chat.decode,
    )


def sampler_of(model: OpenedModel, *, rows: int = ROWS, whole_vocabulary: bool = False) -> Sampler:
    """The sampler of an opened model on its mesh; see `make_sampler`."""
    chat, eos_ids = model.chat, model.eos_ids
    return make_sampler(
        model.decoder, chat, eos_ids, model.mesh, rows=rows, whole_vocabulary=whole_vocabulary
    )


def open_engine(
    model: OpenedModel, params: Any, *, rows: int = ROWS, whole_vocabulary: bool = False
) -> Sampler:
    """The same, with these parameters."""
    sampler = sampler_of(model, rows=rows, whole_vocabulary=whole_vocabulary)
    sampler.load(params)
    return sampler


class Samplers:
    """The samplers of several models, of which one has its weights at a time: models with the same
    decoder share one, which is compiled once."""

    def __init__(self, rows: int = ROWS):
        self._rows = rows
        self._made: list[tuple[Any, Sampler]] = []  # with what was compiled

    def of(self, model: OpenedModel) -> Sampler:
        """The same one where nothing else is compiled."""
        compiled = (model.decoder, tuple(model.eos_ids), len(model.chat.tokenizer))
        for known, sampler in self._made:
            if known == compiled:
                return sampler
        sampler = sampler_of(model, rows=self._rows)
        sampler.name = str(model.files)
        self._made.append((compiled, sampler))
        return sampler

    def unload(self) -> None:
        """Let go of the weights."""
        for _, sampler in self._made:
            sampler.unload()
