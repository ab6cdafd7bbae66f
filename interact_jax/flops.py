"""FLOPs of a traced function, counted in its jaxpr: loop bodies times their number of iterations.

XLA's own `cost_analysis` counts the body of a loop once, so it cannot be used for a model whose
layers are scanned. How often a `while` runs may depend on integers among the arguments (blockwise
attention visits the keys that a packed row can see): where these are concrete arrays, everything
derived from them is evaluated and the loop is counted as it would run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

FOREIGN: dict[str, Callable[[list[tuple[int, ...]], list[np.ndarray | None]], int]] = {}
"""FLOPs of a target of `jax.ffi.ffi_call`, or of the Pallas kernel of that name, from its
arguments: shapes, and values where known."""
_NAME = {"ffi_call": "target_name", "pallas_call": "name"}  # the parameter that has the name


def count(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs (two a multiply-add) of all matrix products that `function(*args)` traces to.

    Dead code is dropped first, as the compiler does. Leaves of `args` may be shapes
    (jax.ShapeDtypeStruct); a `while` whose length depends on one of those counts once. A `cond`
    counts as its most expensive branch, a call of foreign code or of a Pallas kernel according to
    `FOREIGN`, a kernel that is not there as its body times its grid.
    """
    closed = jax.make_jaxpr(function)(*args)
    leaves = jax.tree.leaves(args, is_leaf=lambda x: isinstance(x, jax.ShapeDtypeStruct))
    counter = _Counter()
    known = [_known_value(leaf) for leaf in leaves]
    return counter.run(_without_dead_code(closed.jaxpr), closed.consts, known)[0]


def _without_dead_code(jaxpr: Any) -> Any:
    from jax.interpreters import partial_eval

    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return live


class _Lazy:
    """A value derived from concrete arguments, computed when a loop needs it."""

    value: np.ndarray  # set once `compute` is None

    def __init__(self, compute: Callable[[], Any]):
        self.compute: Callable[[], Any] | None = compute

    def get(self) -> np.ndarray:
        if self.compute is not None:
            self.value, self.compute = np.asarray(self.compute()), None
        return self.value

    def item(self, index: int) -> _Lazy:
        return _Lazy(lambda: self.get()[index])


Known = _Lazy | None  # None: not known before the program runs


def _known_value(leaf: Any) -> Known:
    concrete = isinstance(leaf, (np.ndarray, np.generic, jax.Array, int, bool))
    if not concrete or isinstance(leaf, jax.core.Tracer) or not _is_integral(jnp.result_type(leaf)):
        return None
    return _Lazy(lambda: leaf)


def _is_integral(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)


class _Counter:
    def __init__(self):
        self.seen: dict[Any, tuple[int, list[Known]]] = {}
        self.loops: dict[int, bool] = {}

    def run(
        self, jaxpr: Any, consts: Sequence[Any], known: Sequence[Known]
    ) -> tuple[int, list[Known]]:
        """(FLOPs, known outputs) of a jaxpr, given the known inputs."""
        env = dict(zip(jaxpr.constvars, map(_known_value, consts), strict=True))
        env |= {
            var: value
            for var, value in zip(jaxpr.invars, known, strict=True)
            if value is None or _fits(value, var)
        }

        def read(var: Any) -> Known:
            return _known_value(np.asarray(var.val)) if hasattr(var, "val") else env.get(var)

        total = 0
        for equation in jaxpr.eqns:
            inputs = [read(var) for var in equation.invars]
            flops, outputs = self.equation(equation, inputs)
            total += flops
            env |= dict(zip(equation.outvars, outputs, strict=True))
        return total, [read(var) for var in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[Known]) -> tuple[int, list[Known]]:
        name, params = equation.primitive.name, equation.params
        unknown: list[Known] = [None] * len(equation.outvars)
        if name == "dot_general":
            (contract, _), _ = params["dimension_numbers"]
            lhs = equation.invars[0].aval.shape
            depth = math.prod(lhs[axis] for axis in contract)
            return 2 * depth * math.prod(equation.outvars[0].aval.shape), unknown
        if name == "scan":
            return self.scan(equation, inputs)
        if name == "while":
            return self.loop(params, inputs)
        if name == "cond":
            return max(self.body(branch, inputs[1:])[0] for branch in params["branches"]), unknown
        if name in _NAME and params[_NAME[name]] in FOREIGN:
            shapes = [var.aval.shape for var in equation.invars]
            values = [None if value is None else value.get() for value in inputs]
            return FOREIGN[params[_NAME[name]]](shapes, values), unknown
        if name == "pallas_call":
            steps = [size for size in params["grid_mapping"].grid if isinstance(size, int)]
            return math.prod(steps) * self.body(params["jaxpr"], [])[0], unknown
        if name == "shard_map" and params["mesh"].size > 1:
            inputs = []  # one device's part; the known values are of the whole
        bodies = [value for value in params.values() if isinstance(value, _BODIES)]
        if bodies:
            results = [self.body(body, inputs) for body in bodies]
            outputs = results[0][1] if len(results[0][1]) == len(unknown) else unknown
            return sum(flops for flops, _ in results), outputs
        is_integral = all(_is_integral(var.aval.dtype) for var in equation.outvars)
        known = [value for value in inputs if value is not None]
        derived = name == "iota" or (inputs and len(known) == len(inputs))
        if is_integral and derived:
            return 0, _evaluate(equation, known)
        return 0, unknown

    def body(self, body: Any, known: Sequence[Known]) -> tuple[int, list[Known]]:
        jaxpr, consts = (
            (body.jaxpr, body.consts) if isinstance(body, core.ClosedJaxpr) else (body, ())
        )
        if len(known) != len(jaxpr.invars):
            known = [None] * len(jaxpr.invars)
        return self.run(jaxpr, consts, known)

    def scan(self, equation: Any, inputs: list[Known]) -> tuple[int, list[Known]]:
        params = equation.params
        body, length = params["jaxpr"], params["length"]
        # Carried values have the same shape inside and outside, scanned ones do not. (The names of
        # the parameters that give their numbers depend on the version of jax.)
        carried = _count_same_shapes(equation.outvars, body.jaxpr.outvars)
        constant = _count_same_shapes(equation.invars, body.jaxpr.invars) - carried
        outputs: list[Known] = [None] * len(body.jaxpr.outvars)
        if not self.has_loop(body.jaxpr):
            return length * self.body(body, [None] * len(inputs))[0], outputs
        consts, carry, xs = (
            inputs[:constant],
            inputs[constant : constant + carried],
            inputs[constant + carried :],
        )
        total = 0
        for step in range(length):
            index = length - 1 - step if params["reverse"] else step
            slices = [None if x is None else x.item(index) for x in xs]
            flops, results = self.cached_body(body, [*consts, *carry, *slices])
            total += flops
            carry = results[:carried]
        return total, outputs

    def cached_body(self, body: Any, known: list[Known]) -> tuple[int, list[Known]]:
        """`body`, cached: all layers of a model run the same loops."""
        key = (
            id(body),
            *(None if v is None else (v.get().shape, v.get().tobytes()) for v in known),
        )
        if key not in self.seen:
            self.seen[key] = self.body(body, known)
        return self.seen[key]

    def loop(self, params: dict[str, Any], inputs: list[Known]) -> tuple[int, list[Known]]:
        split = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        to_cond, to_body, carry = (
            inputs[: split[0]],
            inputs[split[0] : split[1]],
            inputs[split[1] :],
        )
        total = 0
        while True:
            condition = self.body(params["cond_jaxpr"], [*to_cond, *carry])[1][0]
            if condition is None:
                return self.body(params["body_jaxpr"], [*to_body, *carry])[0], [None] * len(carry)
            if not condition.get():
                return total, carry
            flops, carry = self.body(params["body_jaxpr"], [*to_body, *carry])
            total += flops

    def has_loop(self, jaxpr: Any) -> bool:
        """Whether its FLOPs may depend on values: it contains a `while` or foreign code."""
        if id(jaxpr) not in self.loops:
            self.loops[id(jaxpr)] = any(
                equation.primitive.name in ("while", "ffi_call")
                or any(self.has_loop(inner) for inner in _inner_jaxprs(equation.params))
                for equation in jaxpr.eqns
            )
        return self.loops[id(jaxpr)]


_BODIES = (core.ClosedJaxpr, core.Jaxpr)


def _inner_jaxprs(params: dict[str, Any]) -> list[Any]:
    values = [
        item
        for value in params.values()
        for item in (value if isinstance(value, (tuple, list)) else (value,))
    ]
    return [getattr(value, "jaxpr", value) for value in values if isinstance(value, _BODIES)]


def _count_same_shapes(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    return sum(a.aval.shape == b.aval.shape for a, b in zip(outside, inside, strict=True))


def _fits(value: _Lazy, var: Any) -> bool:
    return value.compute is not None or value.get().shape == var.aval.shape


def _evaluate(equation: Any, inputs: list[_Lazy]) -> list[Known]:
    def compute() -> list[Any]:
        values = [jnp.asarray(value.get()) for value in inputs]
        result = equation.primitive.bind(*values, **equation.params)
        return result if equation.primitive.multiple_results else [result]

    results: list[Any] = []

    def output(index: int) -> Any:
        if not results:
            results.extend(compute())
        return results[index]

    return [_Lazy(functools.partial(output, index)) for index in range(len(equation.outvars))]
