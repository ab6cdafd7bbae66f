"""An engine that is a server: ids in and out, weights by way of a directory that both can read.

    weights = WeightFiles("run/weights", export)
    engine = VllmEngine("http://127.0.0.1:8000", Vocabulary.of(model), weights)
    engine.load(params, version=1)                  written, handed over, verified
    completions = engine.sample(requests)

The server may be killed and started again at any time, also while it takes new weights: requests
without an answer are sent again, and weights that it has lost are handed over again first. Every
completion is checked against the weights that drew it:

    this engine's, the newest          taken
    this engine's, older               taken, with their version; counted in `stale`
    others (a server just restarted,
    another client's)                  thrown away and sampled again; counted in `stale`

`counts` has what happened: completions, tries that failed, hand-overs of weights.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from interact_jax.endpoints.http import JsonServer, key_from
from interact_jax.endpoints.retrying import Failed, Patience, Pause, in_parallel, insist
from interact_jax.generation.engine import Completion, Done, Request, SamplingParams, limit_of
from interact_jax.generation.weight_files import WeightFiles
from interact_jax.opening import OpenedModel
from interact_jax.schema import InputError, RunStopped

log = logging.getLogger(__name__)

RAW, TEMPERED, PROCESSED = "raw", "tempered", "processed"
LOGPROBS = (RAW, TEMPERED, PROCESSED)
STARTING = Patience(tries=40, first=0.5, longest=30.0)
"""Enough for a server to be started again and to read a large model: about 18 minutes."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What an engine has to know of the model: ids are below `size`, prompt and reply have at most
    `context` tokens, and `eos_ids` end a reply."""

    size: int
    context: int
    eos_ids: tuple[int, ...]

    @classmethod
    def of(cls, model: OpenedModel) -> Vocabulary:
        config = model.config
        return cls(config.vocab_size, config.max_positions, tuple(model.eos_ids))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A completion as a server reports it. `ended`: "stop", "length", or why there is none.
    `labels` are of the weights that drew it; empty where the server does not say."""

    ids: list[int]
    logprobs: list[float]
    ended: str
    labels: tuple[str, ...] = ()


class ServerEngine(abc.ABC):
    """See the module. Subclasses know a server's protocol; `name` is for people."""

    remedy = ""  # what a server must be started with, for messages

    def __init__(
        self,
        url: str,
        vocabulary: Vocabulary,
        weights: WeightFiles | None = None,
        *,
        logprobs: str = RAW,
        concurrency: int = 64,
        patience: Patience = STARTING,
        timeout: float = 600.0,
        key_variable: str = "",
    ):
        """`weights`: where versions are written; None = sample from the server's own weights.

        `logprobs` says which log-probabilities the server was started to report: of the model
        itself ("raw"), after the temperature but over the whole vocabulary ("tempered"), or of the
        distribution drawn from ("processed"). `timeout`: seconds for one completion or one
        hand-over. `key_variable`: the environment variable with the server's key. Raises
        InputError.
        """
        if logprobs not in LOGPROBS:
            raise InputError(f"logprobs={logprobs!r}: expected one of {', '.join(LOGPROBS)}.")
        if concurrency < 1:
            raise InputError(f"concurrency={concurrency}: expected at least 1 request at a time.")
        self.server = JsonServer(url, key_from(key_variable), timeout)
        self.name, self.version = f"{type(self).__name__} at {self.server.url}", 0
        self.vocabulary, self.weights, self.logprobs = vocabulary, weights, logprobs
        self.concurrency, self.patience = concurrency, patience
        self.counts: collections.Counter[str] = collections.Counter()
        self.stale: collections.Counter[str] = collections.Counter()  # completions by label
        self._lock = threading.RLock()  # weights are handed over by one thread at a time
        self._count_lock = threading.Lock()
        self._wanted = ""  # label of the newest weights; "" = the server's own
        self._own: str | None = None  # the server's own label
        self._doubtful = True  # whether the server may have lost the weights
        self._half_done = False  # whether a hand-over began and did not end

    # ------------------------------------------------------------------------- the protocol

    @abc.abstractmethod
    def _draw(self, request: Request, limit: int) -> Drawn:
        """One completion of at most `limit` tokens. Raises Failed."""

    @abc.abstractmethod
    def _update(self, path: Path, label: str) -> None:
        """Make the server take weights and drop what it cached. Raises Failed."""

    @abc.abstractmethod
    def _label(self) -> str:
        """The label of the server's weights. Raises Failed."""

    # ------------------------------------------------------------------------------ weights

    def load(self, params: Any, version: int) -> None:
        """Write the parameters, and have the server sample from them.

        Completions on their way are waited for, or sampled again from the new weights. Raises
        RunStopped or InputError where the server does not take them: it then stays paused, since
        half of the old ones may be gone.
        """
        self.take(self.write(params, version), version)

    def write(self, params: Any, version: int) -> str:
        """Write the parameters; their label, for `take`."""
        if self.weights is None:
            raise InputError(f"{self.name}: was given no directory for weights.")
        return self.weights.write(params, version)

    def take(self, label: str, version: int) -> None:
        """Have the server sample from weights that are written. Raises as `load`."""
        assert self.weights is not None
        with self._lock:
            self._wanted, self.version, self._doubtful = label, version, True
            self._insist(self._settle, time.sleep)
        self.weights.keep_only(label)

    def _settle(self) -> None:
        """Make sure that the server has the weights that it should have. Raises Failed."""
        with self._lock:
            if not self._doubtful:
                return
            label = self._label()
            if not self._wanted:
                self._own = label if self._own is None else self._own
                if label != self._own:
                    raise RunStopped(
                        f"{self.name}: it had the weights {self._own!r}, now it has {label!r}, and "
                        "none of this run. Start it with the right model, and go on."
                    )
            elif label != self._wanted or self._half_done:
                self._hand_over()
            self._doubtful = False

    def _hand_over(self) -> None:
        assert self.weights is not None
        self._half_done = True
        self._update(self.weights.path(self._wanted), self._wanted)
        self._half_done = False
        if (label := self._label()) != self._wanted:
            raise Failed(f"{self.name}: says {label!r} after {self._wanted!r}", again=True)
        self._add("hand-overs")

    def _doubt(self) -> None:
        with self._lock:
            self._doubtful = True

    def _sampling(self, request: Request) -> dict[str, Any]:
        """What both protocols name alike; complete, because what is left out a server takes from
        the model's generation_config."""
        params = request.params
        return {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(params.stop),
            "stop_token_ids": list(self.vocabulary.eos_ids),
            "skip_special_tokens": False,
        }

    # ----------------------------------------------------------------------------- sampling

    def sample(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """See Engine. Raises RunStopped where the server stays away; what was completed by then
        has been handed to `done`."""
        v = self.vocabulary
        limits = [limit_of(n, request, v.context, v.size) for n, request in enumerate(requests)]

        def complete(index: int, pause: Pause) -> Completion:
            return self._insist(lambda: self._complete(requests[index], limits[index]), pause)

        completions: dict[int, Completion] = {}
        for index, completion in in_parallel(complete, len(requests), self.concurrency):
            completions[index] = completion
            self._add("completions")
            if done is not None:
                done(index, completion)
        return [completions[index] for index in range(len(requests))]

    def _complete(self, request: Request, limit: int) -> Completion:
        """One try of one request. Raises Failed."""
        self._settle()
        with self._lock:
            asked, before = self._wanted, self._wanted or (self._own or "")
        try:
            drawn = self._draw(request, limit)
            labels = drawn.labels or (before, self._label())
        except Failed:
            self._doubt()  # it may be another process by now
            raise
        if drawn.ended not in ("stop", "length"):
            raise Failed(f"{self.name}: a completion ended by {drawn.ended!r}", again=True)
        version = self._version(labels, asked)
        self._check(drawn, limit)
        return self._completion(drawn, request.params, version)

    def _version(self, labels: Sequence[str], asked: str) -> int:
        """The version of the oldest weights that drew a completion. Raises Failed for weights of
        unknown origin."""
        versions = {label: self._known_version(label, asked) for label in labels}
        for label, version in versions.items():
            if version is None:
                self._add_stale(label)
                self._doubt()
                raise Failed(f"{self.name}: sampled from {label!r}, not {asked!r}", again=True)
        version, label = min((version or 0, label) for label, version in versions.items())
        if version < (self._known_version(asked, asked) or 0):
            self._add_stale(label)
        return version

    def _known_version(self, label: str, asked: str) -> int | None:
        if not asked:  # a server without a label of its own cannot take weights from anybody
            return 0 if self._own == "" or label == self._own else None
        return None if self.weights is None else self.weights.version_of(label)

    def _check(self, drawn: Drawn, limit: int) -> None:
        """Raise Failed for what no completion can be."""
        ids, eos = drawn.ids, set(self.vocabulary.eos_ids)
        problem = ""
        if len(ids) != len(drawn.logprobs):
            problem = f"{len(ids)} ids with {len(drawn.logprobs)} log-probabilities"
        elif not 0 < len(ids) <= limit:
            problem = f"{len(ids)} tokens, where 1 to {limit} were asked for"
        elif not 0 <= min(ids) <= max(ids) < self.vocabulary.size:
            problem = f"token ids from {min(ids)} to {max(ids)}"
        elif not all(map(math.isfinite, drawn.logprobs)):
            problem = "log-probabilities that are not finite"
        elif eos & set(ids[:-1]):
            problem = "tokens after one that ends a reply"
        if problem:
            raise Failed(
                f"{self.name}: answered with {problem}. Is it the same model? {self.remedy}",
                again=False,
            )

    def _completion(self, drawn: Drawn, params: SamplingParams, version: int) -> Completion:
        finished = drawn.ids[-1] in self.vocabulary.eos_ids
        logps, sampling_logps = both_kinds(drawn.logprobs, self.logprobs, params)
        return Completion(
            drawn.ids,
            logps,
            finished,
            sampling_logps,
            stopped=drawn.ended == "stop" and not finished,
            version=version,
        )

    # -------------------------------------------------------------------------------- trying

    def _insist(self, attempt: Any, pause: Pause) -> Any:
        try:
            return insist(attempt, self.patience, pause, self._note)
        except Failed as failure:
            self._give_up(failure)

    def _give_up(self, failure: Failed) -> NoReturn:
        if not failure.again:
            raise InputError(f"{failure}. {self.remedy}".strip()) from failure
        raise RunStopped(
            f"{failure}. Start the server again, and the same command goes on."
        ) from failure

    def _note(self, failure: Failed) -> None:
        self._add("failed tries")
        log.info("%s; trying again", failure)

    def _add(self, what: str) -> None:
        with self._count_lock:
            self.counts[what] += 1

    def _add_stale(self, label: str) -> None:
        with self._count_lock:
            self.stale[label] += 1


def both_kinds(
    reported: list[float], kind: str, params: SamplingParams
) -> tuple[list[float], list[float]]:
    """(`logps`, `sampling_logps`) of a completion from the ones that a server reports.

    What cannot be known from them is [] and never a guess: dividing by the temperature is not
    enough, for probabilities have to sum to 1 again. A greedy draw has probability 1, and servers
    then report the model's own log-probabilities.
    """
    if params.temperature == 0:
        return reported, [0.0] * len(reported)
    whole = params.top_k == 0 and params.top_p == 1 and params.min_p == 0
    plain = params.temperature == 1
    of_model = kind == RAW or (plain and (kind == TEMPERED or whole))
    of_draw = kind == PROCESSED or (whole and (kind == TEMPERED or plain))
    return reported if of_model else [], reported if of_draw else []
