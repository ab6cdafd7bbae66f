"""An `Engine` over the sampler as it is, until there is one that is an engine itself."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from interact_jax.generation.engine import Completion, Done, Request
from interact_jax.generation.sampler import Sampler
from interact_jax.opening import OpenedModel
from interact_jax.schema import InputError


class SamplerEngine:
    """Knows temperature and length; a completion's random numbers depend on its seed alone."""

    def __init__(self, model: OpenedModel, params: Any, rows: int = 8):
        self.name, self.version, self._params = "sampler", 0, params
        limit = min(len(model.chat.tokenizer), model.config.vocab_size)
        self._sampler = Sampler(model.decoder, model.eos_ids, rows=rows, vocab_limit=limit)

    def load(self, params: Any, version: int) -> None:
        self._params, self.version = params, version

    def sample(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        groups = collections.defaultdict(list)
        for index, request in enumerate(requests):
            groups[request.params].append(index)
        completions: dict[int, Completion] = {}
        for params, indices in groups.items():
            if params.top_k or params.top_p < 1 or params.min_p or params.stop:
                raise InputError("the sampler knows temperature and length only.")
            found = self._sampler.sample(
                self._params,
                [requests[index].ids for index in indices],
                max_new_tokens=params.max_new_tokens,
                temperature=params.temperature,
                seed=0,
                indices=[requests[index].seed for index in indices],
            )
            for index, one in zip(indices, found, strict=True):
                completions[index] = Completion(
                    one.ids, one.logps, one.finished, version=self.version
                )
                if done is not None:
                    done(index, completions[index])
        return [completions[index] for index in range(len(requests))]
