"""What samples replies: one interface for the mesh's own sampler and for servers.

    requests = [Request(ids, SamplingParams(temperature=0.7, top_p=0.9), seed=n) ...]
    completions = engine.sample(requests)                 one each, in the same order
    engine.load(params, version=step)                     later requests are sampled from these

A completion is what training needs: the ids as sampled, never made again from text, and two kinds
of log-probabilities of them. `logps` are those of the model itself: at temperature 1, over the
whole vocabulary, as a trainer computes them. `sampling_logps` are those of the distribution that
they were drawn from: after temperature, top-k, top-p and min-p. They are the same for plain
sampling.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from interact_jax.schema import InputError


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How to draw a completion.

    temperature 0 takes the likeliest token. `top_k` keeps the k likeliest tokens (0 = all), `top_p`
    the smallest set of likeliest tokens with at least that probability, `min_p` those with at
    least that share of the likeliest one's probability; all three see the probabilities after the
    temperature, and `top_p` those that `top_k` left. A completion ends with an EOS, with the token
    that completes a text of `stop`, or after `max_new_tokens`.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise InputError for a value out of range."""
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens={self.max_new_tokens}: expected at least 1.")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise InputError(
                f"temperature={self.temperature}: expected 0 (greedy) or a positive number."
            )
        if self.top_k < 0:
            raise InputError(f"top_k={self.top_k}: expected 0 (all tokens) or more.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p}: expected more than 0 and at most 1.")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p={self.min_p}: expected 0 (all tokens) to 1.")
        if "" in self.stop:
            raise InputError("stop: an empty text would end every reply at once.")


@dataclasses.dataclass(frozen=True)
class Request:
    """Prompt ids to complete. The random numbers of a completion depend on `seed`, of up to
    64 bits, alone."""

    ids: Sequence[int]
    params: SamplingParams
    seed: int = 0


class NotFinite(InputError):
    """The log-probabilities of a model are not finite: nothing can be sampled from it."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """The sampled reply to one prompt: `ids`, with the EOS that ended it, if one did (`finished`).

    `logps` and `sampling_logps` have a float32 number for each id (see the module), or none: a
    server may not report both. `stopped`: the last token completed a stop text. Neither: it was cut
    at its limit. `version` is that of the oldest weights that drew a token of it.
    """

    ids: list[int]
    logps: list[float]
    finished: bool
    sampling_logps: list[float] = dataclasses.field(default_factory=list)
    stopped: bool = False
    version: int = 0


def requests_for(
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    seed: int,
    indices: Sequence[int] | None = None,
) -> list[Request]:
    """A request for every prompt; its random numbers depend on `seed` and its index alone (by
    default its place among the prompts)."""
    indices = range(len(prompts)) if indices is None else indices
    return [
        Request(ids, params, seed_of(seed, index))
        for ids, index in zip(prompts, indices, strict=True)
    ]


def seed_of(*parts: object) -> int:
    """A seed of 31 bits from anything that has a text: the same on every machine, and one that
    every server takes."""
    text = "\0".join(map(str, parts)).encode(errors="surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33


def limit_of(index: int, request: Request, context: int, vocabulary: int) -> int:
    """How many tokens the completion of a request may have, for a model with this context and so
    many ids; `index` is the request's place, for messages.

    Raises InputError for a request that can never be sampled: settings out of range, and a prompt
    that is empty, fills the context, or holds ids that the model does not have.
    """
    request.params.check()
    ids = request.ids
    if not 0 < len(ids) < context:
        raise InputError(
            f"prompt {index}: {len(ids)} tokens; expected at least 1 and fewer than the model's "
            f"context of {context}, so that a reply has room."
        )
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise InputError(
            f"prompt {index}: token ids from {min(ids)} to {max(ids)}, but the model has "
            f"{vocabulary}. Model and tokenizer must belong together."
        )
    return min(request.params.max_new_tokens, context - len(ids))


Done = Callable[[int, Completion], None]


class Engine(Protocol):
    """What samples. `version` counts the weights it was given; `name` is for people."""

    name: str
    version: int

    def sample(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """A completion of every request, in order; `done` is called with each as it ends.

        Raises InputError for requests that can never be sampled.
        """
        ...

    def load(self, params: Any, version: int) -> None:
        """Sample from these parameters from now on."""
        ...
