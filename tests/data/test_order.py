"""Orders of small data and of large ones."""

import grain
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


@pytest.mark.parametrize(("count", "seed"), [(32, 0), (120, 7), (70_000, 0), (1000, 2**40)])
def test_it_is_what_earlier_versions_had(count, seed):
    """grain's shuffled range: a checkpoint of one of them counts on it, in any epoch."""
    theirs = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
    order = Order(count, seed)
    places = [0, 1, count - 1, count, 2 * count + 5, 9 * count - 1]
    assert [order[n] for n in places] == [int(theirs[n]) for n in places]
    assert order.take(count - 2, 4).tolist() == [int(theirs[count - 2 + n]) for n in range(4)]
