"""The first steps of a run: the shapes of its rows are chosen by them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from interact_jax.data.dataset import Dataset
from interact_jax.data.draws import Draws
from interact_jax.data.reading import Data
from interact_jax.data.rows import Packing
from interact_jax.data.tree import Tree
from interact_jax.printable import count, count_reason
from interact_jax.schema import InputError

LOOK_AHEAD = 64  # steps for which shapes are chosen
SHOWN = 1000  # conversations whose losses are told where nothing can be used


def packing_for(
    dataset: Data,
    draws: Draws,
    row_tokens: int,
    height: int,
    ignore_first: int,
    known: Collection[str] = (),
) -> Packing:
    """Shapes for the first steps of a run; `known` as in `Packing.for_trees`. Raises InputError
    where nothing can be used."""
    usable = list(itertools.islice(_usable_steps(dataset, draws), LOOK_AHEAD))
    steps = [trees for _, trees in usable]
    trees: Sequence[Tree]
    if isinstance(dataset, Dataset):
        trees = dataset.trees_of(range(len(dataset)))
    else:  # `LogBatches` widens rows for what is larger than all of these
        trees = dataset.trees_of([i for step, _ in usable for i in step])
    return Packing.for_trees(trees, row_tokens, height, ignore_first, steps, known)


def first_trees(dataset: Data, draws: Draws) -> Sequence[Tree]:
    """The trees of a run's first step. Raises InputError where nothing can be used."""
    return next(_usable_steps(dataset, draws))[1]


def _usable_steps(dataset: Data, draws: Draws) -> Iterator[tuple[list[int], Sequence[Tree]]]:
    """Each step of which something can be used, and its trees. Where nothing can be used of any
    step of the run, those after its end are looked at, too."""
    course = draws.course
    place, tried, found = course.start, list[int](), False
    while step := draws.step(place) or ([] if found else draws.step(place, beyond=True)):
        place = course.after(place, step)
        if trees := dataset.trees_of(step):
            found = True
            yield step, trees
        elif not found:
            tried += step
            if len(tried) >= len(dataset):
                dataset.follow(*course.rest(course.start))(tried[:SHOWN])  # counts what is lost
                raise nothing_usable(len(tried), dataset)


def nothing_usable(tried: int, dataset: Data) -> InputError:
    """The error that says that there was nothing in so many conversations, a whole epoch."""
    lines = as_lines(dataset.summary())
    lost = "; ".join(lines) or "nothing, there is nothing to learn from in them"
    return InputError(
        f"nothing can be used of {count(tried, 'conversation')} in a row, a whole epoch. Look at "
        f"the settings by which they are lost, or at the data. What was lost so far: {lost}."
    )


def as_lines(lost: Mapping[str, int]) -> list[str]:
    """What was lost or mended, by reason, for people."""
    return [count_reason(times, reason) for reason, times in sorted(lost.items())]
