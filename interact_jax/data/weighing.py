"""Weights of interactions: from the data, and from a function of your own.

    # weights.py
    def weigh(conversation, draft):
        if conversation.meta.get("language") != "English":
            return 0                                           # left out
        return 2 if len(draft.y.content) < 400 else 1

    --config.data.weigh=weights.py:weigh

`draft` is a `data.examples.Draft`: x, y, and what its views show; where the recipe shows the
follow-up o, it is draft.views["hindsight"]. In the data, an assistant message may have a "weight"
(as in OpenAI's fine-tuning files). The two are multiplied. A loss is the mean with these weights; a
pair has the weight of its preferred reply.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import traceback
from collections.abc import Callable
from pathlib import Path

from interact_jax.data.examples import Draft
from interact_jax.places import check_name
from interact_jax.schema import Conversation, InputError
from interact_jax.settings import Setting

Weigh = Callable[[Conversation, Draft], float]

SETTINGS = {
    "data.weigh": Setting(
        "",
        "FILE.py:FUNCTION that gives every interaction a weight, 0 to leave it out; empty ="
        " all weigh the same",
    ),
}


@functools.lru_cache(maxsize=8)
def load(spec: str) -> Weigh:
    """The function named by "FILE.py:FUNCTION". Raises InputError if there is none."""
    name, colon, function = spec.rpartition(":")
    check_name(f"data.weigh={spec!r}", name)
    file = Path(name)
    if not colon or not file.is_file():
        raise InputError(
            f"data.weigh={spec!r}: expected FILE.py:FUNCTION of an existing file; "
            f"looked from {Path.cwd()}."
        )
    module_spec = importlib.util.spec_from_file_location(f"weigh_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"data.weigh={spec!r}: {file} is not a Python file.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        return getattr(module, function)
    except Exception as error:  # the file is the user's program and may raise anything
        raise InputError(f"data.weigh={spec!r}: {type(error).__name__}: {error}") from error


def weight_of(spec: str, conversation: Conversation, draft: Draft) -> float:
    """The weight of a draft's unit. Raises InputError for a value that is not a weight."""
    if not spec:
        return draft.weight
    try:
        weight = float(load(spec)(conversation, draft))
    except InputError:
        raise
    except Exception as error:  # so may the function
        name = Path(spec.rpartition(":")[0]).name
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f":{f.lineno}" for f in frames if Path(f.filename).name == name]
        raise InputError(
            f"{conversation.source}: data.weigh={spec!r} fails at interaction {draft.id} "
            f"({name}{''.join(lines[-1:])}): {type(error).__name__}: {error}. It has to return a "
            "number of at least 0; 0 leaves the interaction out."
        ) from error
    if not (weight >= 0 and math.isfinite(weight)):
        raise InputError(
            f"{conversation.source}: data.weigh={spec!r} gives {weight} for interaction "
            f"{draft.id}: expected a number of at least 0."
        )
    return weight * draft.weight
