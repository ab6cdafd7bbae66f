"""The engine of this process: the mesh's own sampler behind the interface of `engine.py`."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

from interact_jax.generation.engine import Completion, Done, Engine, Request, SamplingParams
from interact_jax.generation.sampler import Sampler
from interact_jax.opening import OpenedModel
from interact_jax.schema import InputError

ROWS = 64  # prompts of a group


def open_engine(
    model: OpenedModel, params: Any, *, rows: int = ROWS, whole_vocabulary: bool = False
) -> Engine:
    """An engine that samples from an opened model on its mesh.

    `whole_vocabulary` also draws ids that the tokenizer does not have, as other libraries do.
    """
    limit = None if whole_vocabulary else len(model.chat.tokenizer)
    sampler = Sampler(model.decoder, model.eos_ids, rows=rows, vocab_limit=limit, mesh=model.mesh)
    return LocalEngine(sampler, params, model.chat.decode)


class LocalEngine:
    """Samples in groups of requests with the same parameters; `decode` makes text of ids."""

    name = "local"

    def __init__(self, sampler: Sampler, params: Any, decode: Callable[[Sequence[int]], str]):
        self.sampler, self.params, self.decode = sampler, params, decode
        self.version = 0

    def load(self, params: Any, version: int) -> None:
        """Sample from these parameters from now on."""
        self.params, self.version = params, version

    def sample(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """See `Engine.sample`."""
        groups: dict[SamplingParams, list[int]] = collections.defaultdict(list)
        for place, request in enumerate(requests):
            _check(request.params)
            groups[request.params].append(place)
        completions: dict[int, Completion] = {}
        for params, places in groups.items():
            sampled = self.sampler.sample(
                self.params,
                [requests[place].ids for place in places],
                max_new_tokens=params.max_new_tokens,
                temperature=params.temperature,
                seed=0,
                indices=[requests[place].seed % 2**32 for place in places],
            )
            for place, whole in zip(places, sampled, strict=True):
                completion = Completion(
                    whole.ids, whole.logps, whole.finished, version=self.version
                )
                completions[place] = self._cut(completion, params.stop)
                if done is not None:
                    done(place, completions[place])
        return [completions[place] for place in range(len(requests))]

    def _cut(self, completion: Completion, stop: tuple[str, ...]) -> Completion:
        """The completion up to the token that completes a stop text."""
        ids = completion.ids[:-1] if completion.finished else completion.ids
        text = self.decode(ids) if stop else ""
        if not any(end in text for end in stop):
            return completion
        texts = (self.decode(ids[: n + 1]) for n in range(len(ids)))
        n = next(n for n, text in enumerate(texts, 1) if any(end in text for end in stop))
        logps = completion.logps[:n]
        return Completion(ids[:n], logps, False, stopped=True, version=completion.version)


def _check(params: SamplingParams) -> None:
    params.check()
    if params.top_k or params.top_p < 1 or params.min_p:
        raise InputError(
            "top_k, top_p and min_p: this engine draws from the whole distribution. Leave them out."
        )
