"""Permutations of which any part can be had by itself: grain's, as fast as arrays are."""

import grain
import numpy as np
import pytest

from interact_jax.data.permutation import Permutation, seed_sequence

COUNTS = [32, 33, 700, 2**16 - 1, 2**16, 2**16 + 2, 2**18, 262_147, 10**6, 2**31]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_it_is_the_one_that_grain_makes(count, seed):
    """Checkpoints of earlier versions count on it."""
    rng = np.random.default_rng(count)
    places_N = np.append(rng.integers(0, count, 100), [0, count - 1])
    theirs = grain.MapDataset.range(count).shuffle(seed=seed)
    assert Permutation(count, seed)(places_N).tolist() == [theirs[int(n)] for n in places_N]


@pytest.mark.parametrize("count", [32, 700, 2**16, 2**16 + 1, 70_000, 2**18 + 1])
def test_it_has_each_number_once(count):
    """Also where grain's has one twice: behind a power of four."""
    found = Permutation(count, 3)(np.arange(count))
    np.testing.assert_array_equal(np.sort(found), np.arange(count))


def test_any_part_is_that_of_the_whole():
    permutation = Permutation(70_000, 5)
    whole = permutation(np.arange(70_000))
    np.testing.assert_array_equal(permutation(np.arange(100, 65_600)), whole[100:65_600])


def test_seeds_become_what_the_standard_says():
    """Of a C++ program: std::seed_seq s{7}; s.generate(...)."""
    assert seed_sequence(7, 2) == [683220383, 1367364675]
    assert seed_sequence(7, 4) == [3058802511, 457619115, 2864960031, 537765756]
    assert seed_sequence(7, 5) == [4258129433, 1160761162, 3404428047, 929122443, 2429044731]
