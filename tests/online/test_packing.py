"""Shapes of rows for steps that nobody knows in advance."""

import numpy as np
import pytest

from interact_jax.data.examples import Example, Target
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.data.tree import Size, grow
from interact_jax.online.packing import Planner, on_grid, save

PLANNER = Planner(row_tokens=256, height=2, ignore_first=0)


def trees(count, reply, prompt=20, seed=0):
    """Single turns with prompts and replies of so many tokens."""
    rng = np.random.default_rng(seed)

    def example(n):
        x, o = (rng.integers(1, 99, length, np.int32) for length in (prompt, 8))
        contexts = {PLAIN: x, HINDSIGHT: np.concatenate([x[:-2], o, x[-2:]])}
        return Example(Target(f"t{n}", rng.integers(1, 99, reply, np.int32), f"t{n}"), contexts)

    return [tree for n in range(count) for tree in grow([[example(n)]], {HINDSIGHT})]


@pytest.mark.parametrize("number", [*range(1, 40), 96, 128, 160, 640, 1000, 4096, 4097])
def test_sizes_are_rounded_up_by_at_most_a_quarter(number):
    size = on_grid(Size(*[number] * 5)).T
    assert number <= size <= number * 1.25
    assert size == on_grid(Size(*[size] * 5)).T


def test_shapes_are_kept_while_they_will_do():
    packing = PLANNER.plan(trees(8, 12))
    assert PLANNER.plan(trees(8, 12, seed=1), packing) is packing
    assert PLANNER.plan(trees(7, 13, seed=2), packing) is packing


def test_much_smaller_steps_get_a_shape_of_their_own():
    packing = PLANNER.plan(trees(12, 60))
    smaller = PLANNER.plan(trees(2, 4), packing)
    assert set(packing.shapes) < set(smaller.shapes)
    assert PLANNER.plan(trees(12, 60), smaller) is smaller, "and the others are still there"


def test_what_does_not_fit_makes_room():
    packing = PLANNER.plan(trees(2, 8))
    longer = trees(1, 400)
    grown = PLANNER.plan(longer, packing)
    assert longer[0].size.fits(grown.full) and not longer[0].size.fits(packing.full)
    held = sum(len(placed) for _, placed in grown.batches(longer))
    assert held == 1


def test_a_packing_comes_back_from_json():
    packing = PLANNER.plan(trees(8, 12), PLANNER.plan(trees(2, 90)))
    assert PLANNER.restore(save(packing)) == packing


def test_no_micro_batch_is_empty():
    """Fewer trees than a micro-batch has rows, and small shapes that are cheaper in pairs."""
    planner = Planner(row_tokens=256, height=16, ignore_first=0)
    packing = planner.plan(trees(1, 4, prompt=8), planner.plan(trees(3, 200)))
    for count in range(1, 9):
        for reply in (4, 30, 60, 90):
            batches = list(packing.batches(trees(count, reply, seed=count)))
            assert all(placed for _, placed in batches)
            assert sum(len(placed) for _, placed in batches) == count
