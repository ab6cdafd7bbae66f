"""Timing training steps on synthetic dialogues: one pass (`tree`) against two forwards (`none`).

    case = Case(Dialogue(turns=8), model=shape("small"))
    results = compare([case], ("tree", "none"), repeats=5)

Both ways run in one process, in turn, with the same attention, scorer and optimiser, so that their
ratio holds on a machine whose speed drifts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from interact_jax import config, sharding, train
from interact_jax.data.encode import Encoded
from interact_jax.data.pack import pack
from interact_jax.data.tree import Size, Tree
from interact_jax.models.decoder import Decoder
from interact_jax.optim import learning_rate, make_optimiser
from interact_jax.schema import Batch

OPENING = 4  # tokens that end a prompt ("<|im_start|>assistant\n"), part of the user's turn
BLOCK = 4  # tokens of the empty block that Qwen3 opens a reply with and leaves out of the history


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """Tokens of a synthetic conversation with `turns` interactions.

    `user` counts a user's turn with the prompt's end, `reply` y with its EOS, `followup` what the
    hindsight prompt adds. With `student_branches` the template renders a reply in the history
    otherwise than it was generated, as Qwen3's does, and every turn but the last is a branch.
    """

    turns: int = 8
    user: int = 64
    reply: int = 192
    followup: int = 32
    student_branches: bool = False

    def window(self, rng: np.random.Generator, vocabulary: int, name: str = "c") -> list[Encoded]:
        """The interactions, of random ids."""

        def some(n: int) -> list[int]:
            return rng.integers(3, vocabulary, n).tolist()

        history: list[int] = []
        opening = some(OPENING)
        block = some(BLOCK) if self.student_branches else []
        window = []
        for turn in range(self.turns):
            user, o, y = some(self.user - OPENING), some(self.followup), some(self.reply)
            x = [*history, *user, *opening, *block]
            xo = [*history, *user, *o, *opening, *block]
            window.append(Encoded(f"{name}_{2 * turn + 1}", x, xo, y))
            history = [*history, *user, *opening, *y]
        return window


def whole_rows(rows: Sequence[Sequence[Tree]]) -> Batch:
    """Rows of trees in arrays that are as long as the fullest row, so one row has no padding."""
    sizes = [sum((tree.size for tree in row), Size(0, 0, 0, 0, 0)) for row in rows]
    capacity = Size(*(max(counts) for counts in zip(*(s.counts() for s in sizes), strict=True)))
    return pack(rows, capacity, len(rows))[0]


@dataclasses.dataclass
class Step:
    """A compiled training step on one batch, ready to be called and timed."""

    sharing: str
    batch: Batch
    interactions: int
    run: Callable[[], None]
    compiled_bytes: int  # temporaries of the compiled gradient, by the compiler's own figure
    seconds: list[float] = dataclasses.field(default_factory=list)

    def time(self) -> None:
        """Run the step once, to its end."""
        begin = time.perf_counter()
        self.run()
        self.seconds.append(time.perf_counter() - begin)


def make_step(
    decoder: Decoder, trees: Sequence[Tree], sharing: str, mesh: jax.sharding.Mesh
) -> Step:
    """Compile the trainer's own step for these trees, all in one row, from random parameters."""
    cfg = config.default()
    cfg.sharing = sharing
    optimiser = make_optimiser(cfg.optim)
    with sharding.on(mesh):
        abstract = train.abstract_state(decoder, optimiser, mesh)
        layout = sharding.layout_of(abstract)
        state = jax.jit(
            lambda: train.new_state(decoder.fresh_params(0), optimiser), out_shardings=layout
        )()
        zeros, accumulate, update = train.jit_step(
            cfg, decoder, optimiser, abstract, learning_rate(cfg.optim, 100)
        )
        batch = whole_rows([trees])
        rows = sharding.place_rows(batch, mesh)
        compiled = accumulate.lower(state.params, zeros(), rows).compile()

    def run() -> None:
        nonlocal state
        with sharding.on(mesh):
            sums = accumulate(state.params, zeros(), rows)
            state, shown = update(state, sums)
        jax.block_until_ready((state, shown))

    interactions = sum(len(tree.replies) for tree in trees)
    return Step(sharing, batch, interactions, run, compiled.memory_analysis().temp_size_in_bytes)


def interleave(steps: Sequence[Step], repeats: int) -> None:
    """Time the steps in turn, `repeats` times each, after one call that is not counted."""
    for step in steps:
        step.run()
    for _ in range(repeats):
        for step in steps:
            step.time()
