"""The sampler as an engine: requests with the same settings are sampled together.

engine = GroupedEngine("pocket", Sampler(decoder, eos_ids))
engine.load(params, version=0)
completions = engine.sample(requests)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interact_jax.generation.engine import Completion, Done, Request, SamplingParams
from interact_jax.generation.sampler import Sampler
from interact_jax.schema import InputError

PORTION = 4  # groups of the sampler that are handed out at a time


class GroupedEngine:
    """An `Engine` over a `Sampler`: temperature 0 or more over the whole vocabulary, no stop texts.

    A completion's random numbers depend on the seed of its request alone.
    """

    def __init__(self, name: str, sampler: Sampler):
        self.name, self.version = name, 0
        self._sampler, self._params = sampler, None

    def sample(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        found: dict[int, Completion] = {}
        for params, places in _by_settings(requests).items():
            # By length, so that a portion fills its groups.
            places.sort(key=lambda place: -len(requests[place].ids))
            step = PORTION * self._sampler.rows
            for start in range(0, len(places), step):
                portion = places[start : start + step]
                completions = self._sampler.sample(
                    self._params,
                    [requests[place].ids for place in portion],
                    max_new_tokens=params.max_new_tokens,
                    temperature=params.temperature,
                    seed=0,
                    indices=[requests[place].seed for place in portion],
                )
                for place, drawn in zip(portion, completions, strict=True):
                    found[place] = Completion(
                        drawn.ids, drawn.logps, drawn.finished, version=self.version
                    )
                    if done is not None:
                        done(place, found[place])
        return [found[place] for place in range(len(requests))]

    def load(self, params: Any, version: int) -> None:
        self._params, self.version = params, version


def _by_settings(requests: Sequence[Request]) -> dict[SamplingParams, list[int]]:
    groups: dict[SamplingParams, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(request.params, []).append(place)
    for params in groups:
        params.check()
        if params.top_k or params.top_p < 1 or params.min_p or params.stop:
            raise InputError("this sampler draws from the whole vocabulary, without stop texts.")
    return groups
