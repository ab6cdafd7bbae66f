"""Whether a run that goes on has the data with which it began."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from interact_jax.data.fingerprint import DIFFERENCES, difference, legacy_digests
from interact_jax.data.mixed import MixedDataset
from interact_jax.data.reading import Data
from interact_jax.printable import count
from interact_jax.schema import InputError


def check_position(
    dataset: Data,
    position: Mapping[str, Any],
    parts: Collection[str] = tuple(DIFFERENCES),
    prints: Mapping[str, str] | None = None,
) -> None:
    """Raise InputError where a position of `LogBatches` is one in other data, as far as these parts
    of the fingerprint show; `prints` is the dataset's, if it is known already."""
    if change := _data_change(dataset, position, parts, prints):
        raise InputError(
            f"the run to be resumed had {change}: its position in the data means nothing. Set "
            "data.path, or data.mixture, to the data of that run, or use another --workdir (with "
            "--config.start_from to continue from the parameters)."
        )


def _data_change(
    dataset: Data,
    position: Mapping[str, Any],
    parts: Collection[str],
    prints: Mapping[str, str] | None,
) -> str | None:
    """In words, how the data of a position differ from these; None where they do not."""
    if isinstance(dataset, MixedDataset):
        if "mixture" not in position:
            return "one data set, not a mixture of them"
        return dataset.change(position["mixture"], parts)
    if "mixture" in position:
        return "a mixture of data sets"
    then, now = position["conversations"], len(dataset)
    if then != now:
        return f"{count(then, 'conversation')}, now there {'is' if now == 1 else 'are'} {now:,}"
    if "data" in position:
        change = difference(position["data"], prints or dataset.prints, parts)
        return change and change.format(now)
    known = legacy_digests(dataset).items()  # earlier versions stored these, or fewer
    if all(position.get(name, number) == number for name, number in known):
        return None
    return f"other conversations, replies or weights, or the same {now:,} in another order"
