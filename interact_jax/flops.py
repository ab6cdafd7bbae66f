"""FLOPs of a traced function, counted in its jaxpr: bodies of scans times their length.

XLA's own `cost_analysis` counts the body of a loop once, so it cannot be used for a model whose
layers are scanned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs (two a multiply-add) of all matrix products that `function(*args)` traces to.

    Dead code is dropped first, as the compiler does. A `while` body counts once and a `cond` as its
    dearest branch; `args` may be shapes.
    """
    closed = jax.make_jaxpr(function)(*args)
    return _count(_without_dead_code(closed.jaxpr))


def _without_dead_code(jaxpr: Any) -> Any:
    from jax.interpreters import partial_eval

    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return live


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contract, _), _ = params["dimension_numbers"]
            lhs = equation.invars[0].aval.shape
            depth = math.prod(lhs[axis] for axis in contract)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        else:
            inner = sum(_count(body) for body in _bodies(params))
            total += inner * params.get("length", 1) if name == "scan" else inner
    return total


def _bodies(params: dict[str, Any]) -> list[Any]:
    bodies = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            bodies.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            bodies.append(value)
    return bodies
