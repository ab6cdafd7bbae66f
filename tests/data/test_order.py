"""Orders of small data and of large ones."""

import numpy as np
import pytest

from interact_jax.data.order import SMALL, Order


@pytest.mark.parametrize("count", [1, 12, SMALL - 1, SMALL, 700])
def test_every_epoch_has_every_index_in_an_order_of_its_own(count):
    order = Order(count, 7)
    epochs = [[order[n] for n in range(e * count, (e + 1) * count)] for e in range(3)]
    for indices in epochs:
        assert sorted(indices) == list(range(count))
    assert count == 1 or len(set(map(tuple, epochs))) == 3


@pytest.mark.parametrize("count", [12, 700])
def test_an_order_depends_on_the_seed_alone(count):
    one, same, other = Order(count, 7), Order(count, 7), Order(count, 8)
    places = np.random.default_rng(0).permutation(3 * count)[:200].tolist()
    found = {n: one[n] for n in places}
    assert found == {n: same[n] for n in sorted(places)}
    assert found != {n: other[n] for n in places}


@pytest.mark.parametrize("count", [3, 700])
def test_without_a_seed_it_is_that_of_the_data(count):
    order = Order(count, None)
    assert [order[n] for n in range(2 * count)] == [*range(count), *range(count)]
