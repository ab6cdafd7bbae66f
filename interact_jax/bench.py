"""Timing training steps: one pass (`tree`) against two forwards (`none`), in one run.

    trees = {way: Dialogue(turns=8).trees(way, rng, vocabulary) for way in ("tree", "none")}
    rows = {way: one_row(grown) for way, grown in trees.items()}
    steps = [make_step(decoder, [row], way, mesh) for way, row in rows.items()]
    interleave(steps, repeats=5, seconds=15)

Both ways use the same attention, scorer and optimiser and take turns, so that their ratio holds on
a machine whose speed drifts.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence, Set
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from interact_jax import config, flops, run_state, scoring, sharding, train
from interact_jax.data.encode import Unit
from interact_jax.data.examples import PREFERRED, REJECTED, Example, Target, as_ids
from interact_jax.data.pack import pack, padding
from interact_jax.data.recipes import HINDSIGHT, PLAIN, RECIPES
from interact_jax.data.tree import GROW, Size, Tree
from interact_jax.methods import method_of
from interact_jax.models.decoder import Decoder
from interact_jax.models.families import DecoderConfig
from interact_jax.optim import learning_rate, make_optimiser
from interact_jax.schema import Batch, TokenStream
from interact_jax.scoring import Source
from interact_jax.teachers import POLICY

OPENING = 4  # tokens that end a prompt ("<|im_start|>assistant\n"), part of the user's turn
BLOCK = 4  # tokens of the empty think block that Qwen3 puts before a reply but not in the history
WAYS = tuple(GROW)


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """Tokens of a synthetic conversation with `turns` interactions.

    `user` is the length of a user's turn including the end of the prompt, `reply` that of y with
    its EOS, `followup` that of what the hindsight prompt adds. With `student_branches` the template
    renders a reply in the history differently from how it was generated, as Qwen3's does, and every
    turn but the last is a branch. The examples are those of `recipe`; a revised reply is as long as
    the first.
    """

    turns: int = 8
    user: int = 64
    reply: int = 192
    followup: int = 32
    student_branches: bool = False
    recipe: str = "hindsight"

    def window(self, rng: np.random.Generator, vocabulary: int, name: str = "c") -> list[Unit]:
        """The interactions, with random ids."""

        def random_ids(n: int) -> list[int]:
            return rng.integers(3, vocabulary, n).tolist()

        history: list[int] = []
        opening = random_ids(OPENING)
        block = random_ids(BLOCK) if self.student_branches else []
        window = []
        for turn in range(self.turns):
            user, o, y = (
                random_ids(self.user - OPENING),
                random_ids(self.followup),
                random_ids(self.reply),
            )
            x = as_ids([*history, *user, *opening, *block])
            xo = as_ids([*history, *user, *o, *opening, *block])
            target = Target(f"{name}_{2 * turn + 1}", as_ids(y), name, f"{name}_{2 * turn + 1}")
            if self.recipe == "hindsight":
                unit = [Example(target, {PLAIN: x, HINDSIGHT: xo})]
            elif self.recipe == "replies":
                unit = [Example(target, {PLAIN: x})]
            else:  # the history goes on without the revised reply
                revised = dataclasses.replace(
                    target, id=f"{target.id}+", y=as_ids(random_ids(self.reply))
                )
                unit = [Example(revised, {PLAIN: x})]
                if self.recipe == "pairs":
                    better = dataclasses.replace(revised, side=PREFERRED)
                    worse = dataclasses.replace(target, id=f"{target.id}-", side=REJECTED)
                    unit = [Example(better, {PLAIN: x}), Example(worse, {PLAIN: x})]
            window.append(unit)
            history = [*history, *user, *opening, *y]
        return window

    def trees(self, way: str, *args: Any, **kwargs: Any) -> list[Tree]:
        """The trees of a window, grown in this way of sharing."""
        return GROW[way](self.window(*args, **kwargs), RECIPES[self.recipe].frozen)


def one_row(trees: Sequence[Tree], height: int = 1, known: Set[str] = frozenset()) -> Batch:
    """All trees in one row of exactly their total length, without padding. `height` is the number
    of such rows, all the same: one for each device that has rows of its own."""
    whole = sum((tree.size for tree in trees), Size(0, 0, 0, 0, 0))
    return with_known(pack([trees] * height, whole, height, known=known)[0])


def with_known(batch: Batch) -> Batch:
    """The batch with zeros for the log-probabilities that have not been computed."""
    known = {name: np.nan_to_num(logps) for name, logps in batch.replies.known.items()}
    return dataclasses.replace(batch, replies=dataclasses.replace(batch.replies, known=known))


# ------------------------------------------------------------------------------------ one step


@dataclasses.dataclass
class Step:
    """A compiled training step on given micro-batches, ready to be called and timed."""

    sharing: str
    micro: list[Batch]
    run: Callable[[], None]  # fails if the step is only compiled
    compiled_bytes: int  # temporaries of the compiled gradient, as the compiler reports them
    flops: int  # of the gradients, counted in the jaxpr; loops count as often as they run
    useful_flops: int
    passes: int  # token passes
    seconds: list[float] = dataclasses.field(default_factory=list)

    def time(self) -> None:
        """Run the step once, to its end, and record the time; not if it is only compiled."""
        begin = time.perf_counter()
        self.run()
        self.seconds.append(time.perf_counter() - begin)

    def figures(self, peak: float | None = None) -> dict[str, Any]:
        """The reported figures; `peak` is the devices' FLOP/s where it is known. Timings are None
        where the step was not run."""
        tokens, slots = (float(n) for n in np.sum([padding(b) for b in self.micro], axis=0))
        count = sum(count_interactions(batch) for batch in self.micro)
        seconds = statistics.median(self.seconds) if self.seconds else None

        def rate(amount: float) -> float | None:
            return amount / seconds if seconds else None

        return {
            "sharing": self.sharing,
            "seconds": seconds,
            "interactions_per_second": rate(count),
            "tokens_per_second": rate(tokens),
            "padding": 1 - tokens / slots,
            "compiled_bytes": self.compiled_bytes,
            "flops": self.flops,
            "flops_per_second": rate(self.flops),
            "mfu": rate(self.useful_flops / peak) if peak else None,
            "token_passes": self.passes,
            "all_seconds": self.seconds,
        }


def make_step(
    decoder: Decoder,
    micro: Sequence[Batch],
    sharing: str,
    mesh: jax.sharding.Mesh,
    runs: bool = True,
    cfg: ConfigDict | None = None,
) -> Step:
    """Compile the trainer's own step for these micro-batches and make it ready to be called, with
    random parameters. If it never `runs`, no parameters are created. Objective and teacher are
    those of `cfg`."""
    cfg = config.default() if cfg is None else cfg.copy_and_resolve_references()
    cfg.sharing = sharing
    optimiser, method = make_optimiser(cfg.optim), method_of(cfg)
    with sharding.on(mesh):
        abstract = run_state.abstract_state(decoder, optimiser, mesh, method.rules)
        differentiate, add = train.jit_gradients(cfg, decoder, abstract)
        update = train.jit_update(cfg, optimiser, abstract, learning_rate(cfg.optim, 100))
        rows = [sharding.place_rows(batch, mesh) for batch in micro]
        of_shape = {tuple(x.shape for x in jax.tree.leaves(batch)): batch for batch in rows}
        models = abstract.all_params()
        compiled = [differentiate.lower(models, b).compile() for b in of_shape.values()]

        def fresh() -> run_state.TrainState:
            return run_state.new_state(decoder.fresh_params(0), optimiser, method.rules)

        state = jax.jit(fresh, out_shardings=sharding.layout_of(abstract))() if runs else None

    def run() -> None:
        nonlocal state
        assert state is not None, "this step is only compiled"
        with sharding.on(mesh):
            sums = None
            for batch in rows:
                more = differentiate(state.all_params(), batch)
                sums = more if sums is None else add(sums, more)
            state, metrics = update(state, sums)
        jax.block_until_ready((state, metrics))

    return Step(
        sharing,
        list(micro),
        run,
        max(m.temp_size_in_bytes for program in compiled if (m := program.memory_analysis())),
        sum(gradient_flops(decoder, batch, cfg) for batch in micro),
        sum(useful_flops(decoder.config, batch, sharing, method.sources) for batch in micro),
        sum(
            token_passes(batch, decoder.remat != "none", sharing, method.sources) for batch in micro
        ),
    )


def interleave(
    steps: Sequence[Step],
    repeats: int,
    seconds: float = 0.0,
    report: Callable[[int], None] = lambda rounds: None,
) -> None:
    """Time the steps in turn, after one warm-up call each: at least `repeats` times each, and for
    at least `seconds`, so that short steps are timed often enough. After every call, while nothing
    is timed, `report` is told how many rounds are complete."""
    for step in steps:
        step.run()
        report(0)
    begin = time.perf_counter()
    while len(steps[0].seconds) < repeats or time.perf_counter() - begin < seconds:
        for step in steps:
            step.time()
            report(len(steps[-1].seconds))


def ratio(tree: Step, none: Step) -> float:
    """The speed-up in interactions per second: the median over the pairs of calls."""
    return statistics.median(b / a for a, b in zip(tree.seconds, none.seconds, strict=True))


# ------------------------------------------------------------------------------------ expected cost


def streams(batch: Batch, sharing: str, sources: Set[Source]) -> list[tuple[TokenStream, bool]]:
    """The streams that run through each model in use, and whether they are differentiated."""
    result = []
    for model in {source.model for source in sources}:
        views = {source.view for source in sources if source.model == model}
        live, trained = views - {*batch.frozen_views}, model == POLICY
        if live or sharing == "tree":
            result.append((batch.trunk, trained))
        if live:
            result.append((batch.live, trained))
        if views - live:
            result.append((batch.frozen, False))
    return result


def token_passes(batch: Batch, remat: bool, sharing: str, sources: Set[Source]) -> int:
    """The cost of a step in forward passes of single tokens (a backward pass counts as two): 3 for
    every token of the student, 4 with rematerialisation, 1 for all others. The ratio of two steps
    bounds their relative speed where attention and head cost nothing."""
    cost = {True: 4 if remat else 3, False: 1}
    return sum(
        cost[live] * _count_tokens(stream) for stream, live in streams(batch, sharing, sources)
    )


def gradient_flops(decoder: Decoder, batch: Batch, cfg: ConfigDict) -> int:
    """FLOPs of one micro-batch's gradient as it is computed, recomputation included; objective,
    teacher and sharing are those of `cfg`."""
    method = method_of(cfg)
    params = jax.eval_shape(decoder.fresh_params, 0)
    step = functools.partial(
        train.differentiate,
        decoder=decoder,
        forward=scoring.FORWARD[cfg.sharing],
        method=method,
    )
    return flops.count(step, dict.fromkeys((POLICY, *method.rules), params), batch)


def useful_flops(config: DecoderConfig, batch: Batch, sharing: str, sources: Set[Source]) -> int:
    """FLOPs that these arrays require: every token once forward, those of the student twice more
    backward, every query with the keys it sees, the head at reply tokens; nothing recomputed.

    Sliding windows are not deducted. Model FLOP utilisation is this over time and peak; for `none`
    the histories that it repeats count as useful.
    """
    c = config
    per_token = (
        2 * c.layers * c.width * (c.head_width * 2 * (c.heads + c.kv_heads) + 3 * c.mlp_width)
    )
    per_pair = 4 * c.layers * c.heads * c.head_width
    cost = {True: 3, False: 1}
    total = 0
    for stream, live in streams(batch, sharing, sources):
        real = np.asarray(stream.segment_BxL) > 0
        pairs = int((np.asarray(stream.position_BxL, np.int64) + 1)[real].sum())
        total += cost[live] * (int(real.sum()) * per_token + pairs * per_pair)
    replies = int((np.asarray(batch.replies.example_BxR) >= 0).sum())
    heads = sum(cost[s.model == POLICY and s.view not in batch.frozen_views] for s in sources)
    return total + heads * replies * 2 * c.width * c.vocab_size


def _count_tokens(stream: Any) -> int:
    return int((np.asarray(stream.segment_BxL) > 0).sum())


def count_interactions(batch: Batch) -> int:
    """How many interactions a batch holds."""
    return int((np.asarray(batch.replies.unit_BxI).max(axis=1) + 1).sum())
