"""How fast and how exact each backend of attention is on this machine's device.

    python benchmarks/attention.py                       every backend that computes here
    python benchmarks/attention.py --blocks              and other blocks for kernels of `triton`
    python benchmarks/attention.py --torch               and PyTorch's flash attention, causal rows

Rows are `causal:TOKENS`, or `tree:TOKENS`: a conversation of eight turns whose trunk, students' and
teachers' branches have about so many tokens. The error of a result x is ||x - y|| / ||y||, where y
is the formula in float32. Times are wall clock over many calls, of which only the last is waited
for. TFLOP/s count the products that the pairs of query and key that are seen require: two forward
and five backward, whatever a backend computes beyond them. What does not compile or does not fit is
said and left out. The program ends with status 1 where that is not the dense formula, and where an
error is above 1e-5 in float32, or 1e-2 in bfloat16.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # programs find one another there

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

import jax
import jax.numpy as jnp
import numpy as np

from interact_jax import bench, cli
from interact_jax.arguments import Parser
from interact_jax.models.attention import BACKENDS, RUNS_ON, dense, pallas_triton
from interact_jax.models.attention.pallas_triton import Blocks
from interact_jax.models.attention.sight import (
    Sight,
    branch_sight,
    concatenate_sights,
    trunk_sight,
)
from interact_jax.models.decoder import precision_of
from interact_jax.schema import InputError, TokenStream

NAMES = ("out", "dq", "dk", "dv")
BOUND = {"float32": 1e-5, "bfloat16": 1e-2}  # of an error, at most: bfloat16 has two digits
OTHERS = {
    "forward": (
        Blocks(128, 128, 8, 2),
        Blocks(128, 64, 8, 2),
        Blocks(128, 64, 8, 3),
        Blocks(128, 64, 8, 4),
        Blocks(128, 64, 4, 3),
        Blocks(64, 64, 4, 2),
        Blocks(64, 64, 4, 3),
        Blocks(64, 128, 4, 2),
        Blocks(128, 32, 4, 3),
    ),
    "dq": (
        Blocks(128, 64, 8, 2),
        Blocks(128, 64, 8, 3),
        Blocks(128, 128, 8, 2),
        Blocks(128, 32, 8, 4),
        Blocks(64, 64, 4, 2),
        Blocks(64, 64, 4, 3),
        Blocks(64, 128, 4, 2),
        Blocks(64, 32, 4, 3),
    ),
    "dkv": (
        Blocks(64, 128, 8, 2),
        Blocks(64, 128, 8, 3),
        Blocks(32, 128, 8, 3),
        Blocks(32, 128, 8, 4),
        Blocks(64, 64, 8, 3),
        Blocks(64, 64, 4, 2),
        Blocks(32, 64, 4, 2),
        Blocks(32, 64, 4, 3),
    ),
}
"""Candidates for heads of 128 bfloat16 numbers."""


class Case(NamedTuple):
    """What attention is given, and the number of pairs of query and key that are seen."""

    name: str
    q: jax.Array
    k: jax.Array
    v: jax.Array
    sight: Sight
    dout: jax.Array
    pairs: int

    def flops(self, products: int) -> int:
        return 2 * products * self.pairs * self.q.shape[2] * self.q.shape[3]


def causal(tokens: int) -> Sight:
    """Every token sees all up to itself."""
    index = np.arange(tokens, dtype=np.int32)[None]
    return trunk_sight(TokenStream(index, index, np.ones_like(index), np.zeros_like(index)))


def tree(tokens: int) -> Sight:
    """A conversation of eight turns: the trunk, then the students' branches, then the teachers'."""
    turn = max((tokens - 260) // 31, 8)
    dialogue = bench.Dialogue(turns=8, user=turn, reply=turn, student_branches=True)
    batch = bench.one_row(dialogue.trees("tree", np.random.default_rng(0), 1000))
    trunk, live, frozen = batch.trunk, batch.live, batch.frozen
    return concatenate_sights(
        [
            trunk_sight(trunk),
            branch_sight(live, trunk, batch.branches),
            branch_sight(frozen, trunk, batch.branches, before=live.id_BxL.shape[1]),
        ]
    )


ROWS = {"causal": causal, "tree": tree}


def make_case(name: str, args: argparse.Namespace) -> Case:
    kind, _, tokens = name.partition(":")
    if kind not in ROWS or not tokens.isdigit():
        raise InputError(f"--rows {name}: give {' or '.join(f'{kind}:4096' for kind in ROWS)}.")
    sight = jax.tree.map(
        lambda x: jnp.asarray(np.repeat(np.asarray(x), args.batch, axis=0)), ROWS[kind](int(tokens))
    )
    B, L = sight[0].first_BxL.shape
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, dout = (
        jax.random.normal(key, (B, L, heads, args.head_width), jnp.dtype(args.dtype))
        for key, heads in zip(
            keys, (args.heads, args.kv_heads, args.kv_heads, args.heads), strict=True
        )
    )
    pairs = sum(
        int(np.maximum(np.asarray(span.end_BxL) - np.asarray(span.first_BxL), 0).sum())
        for span in sight
    )
    return Case(name, q, k, v, sight, dout, pairs)


@jax.jit
def expected(q, k, v, sight, dout):
    """Output, dq, dk and dv by the formula in float32, one key head after the other."""
    B, L, H, K = q.shape
    G = k.shape[2]

    def of_head(given):
        q, k, v, dout = given  # [B, L, r, K] and [B, S, K]
        k, v = k[:, :, None], v[:, :, None]
        out, lse = dense.forward(q, k, v, sight)
        dq, dk, dv = dense.backward(q, k, v, sight, out, lse, dout)
        return out, dq, dk[:, :, 0], dv[:, :, 0]

    def by_head(x):
        return jnp.moveaxis(x.reshape(B, L, G, H // G, K).astype(jnp.float32), 2, 0)

    keys = (jnp.moveaxis(x.astype(jnp.float32), 2, 0) for x in (k, v))
    out, dq, dk, dv = jax.lax.map(of_head, (by_head(q), *keys, by_head(dout)))
    out, dq = (jnp.moveaxis(x, 0, 2).reshape(B, L, H, K) for x in (out, dq))
    return out, dq, *(jnp.moveaxis(x, 0, 2) for x in (dk, dv))


def error(found: jax.Array, wanted: jax.Array) -> float:
    """||found - wanted|| / ||wanted||"""
    difference = jnp.linalg.norm((found.astype(jnp.float32) - wanted).ravel())
    return float(difference / jnp.linalg.norm(wanted.ravel()))


def seconds_of(call: Callable[[], Any], calls: int, wait: Callable[[Any], Any]) -> float:
    """Of a call: the median of three times so many, after one that is not timed."""
    wait(call())
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(calls - 1):
            call()
        wait(call())
        times.append((time.perf_counter() - begin) / calls)
    return statistics.median(times)


def time_jax(function: Callable[..., Any], calls: int, *given: Any) -> float:
    return seconds_of(functools.partial(function, *given), calls, jax.block_until_ready)


def measure(case: Case, backend: str, wanted: Sequence[jax.Array], calls: int) -> dict[str, Any]:
    """Errors and times of a backend."""
    q, k, v, sight, dout = case.q, case.k, case.v, case.sight, case.dout
    forward, backward = (jax.jit(lambda *x, f=f: f(*x)) for f in BACKENDS[backend])
    out, lse = forward(q, k, v, sight)
    found = (out, *backward(q, k, v, sight, out, lse, dout))
    errors = {n: error(a, b) for n, a, b in zip(NAMES, found, wanted, strict=True)}
    return {
        "row": case.name,
        "backend": backend,
        "errors": errors,
        "right": all(x <= BOUND[str(q.dtype)] for x in errors.values()),  # no NaN is
        "forward": time_jax(forward, calls, q, k, v, sight),
        "backward": time_jax(backward, calls, q, k, v, sight, out, lse, dout),
    }


def measure_blocks(case: Case, wanted: Sequence[jax.Array], calls: int) -> Iterator[dict[str, Any]]:
    """Time and errors of each kernel of `triton` with each of its candidates, the others as they
    are. dk and dv need what dq's kernel gives: theirs is the time of both less that of dq's."""
    q, k, v, sight, dout = case.q, case.k, case.v, case.sight, case.dout
    table = pallas_triton.table()
    used = pallas_triton.blocks_for(q)
    (key,) = (key for key, kernels in table.items() if kernels is used)
    out, lse = jax.jit(pallas_triton.forward)(q, k, v, sight)

    def measured(kernel: str) -> tuple[float, list[float]]:
        if kernel == "forward":
            call = jax.jit(lambda *x: pallas_triton.forward(*x)[:1])
            given: tuple[Any, ...] = (q, k, v, sight)
            expected = wanted[:1]
        else:
            parts = slice(0, 1) if kernel == "dq" else slice(0, 3)
            call = jax.jit(lambda *x: pallas_triton.backward(*x)[parts])
            given = (q, k, v, sight, out, lse, dout)
            expected = wanted[1:][parts]
        errors = [error(a, b) for a, b in zip(call(*given), expected, strict=True)]
        return time_jax(call, calls, *given), errors

    of_dq, _ = measured("dq")
    try:
        for kernel, candidates in OTHERS.items():
            for blocks in candidates:
                table[key] = used._replace(**{kernel: blocks})
                result: dict[str, Any] = {"row": case.name, "kernel": kernel, "blocks": blocks}
                try:
                    seconds, errors = measured(kernel)
                except Exception as reason:  # whatever the compiler does not like
                    yield result | {"failed": first_line(reason)}
                    continue
                seconds -= of_dq if kernel == "dkv" else 0.0
                right = all(x <= BOUND[str(q.dtype)] for x in errors)
                yield result | {"seconds": seconds, "errors": errors, "right": right}
    finally:
        table[key] = used


def measure_torch(case: Case, calls: int) -> dict[str, Any]:
    """PyTorch's flash attention on a causal row of this shape."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as attention

    def made(x: jax.Array) -> Any:
        B, L, H, K = x.shape
        dtype = getattr(torch, str(x.dtype))
        return torch.randn(B, H, L, K, dtype=dtype, device="cuda", requires_grad=True)

    q, k, v = (made(x) for x in (case.q, case.k, case.v))

    def wait(_: Any) -> None:
        torch.cuda.synchronize()

    def forward() -> Any:
        return attention(q, k, v, is_causal=True, enable_gqa=True)

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = forward()
        dout = torch.randn_like(out)

        def backward() -> Any:
            return torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)

        return {
            "row": case.name,
            "backend": "torch",
            "forward": seconds_of(forward, calls, wait),
            "backward": seconds_of(backward, calls, wait),
        }


def first_line(reason: Exception) -> str:
    return f"{type(reason).__name__}: {str(reason).strip().partition(chr(10))[0][:160]}"


def line_of(result: dict[str, Any], case: Case) -> str:
    """A line of the table."""
    if "kernel" in result:
        name = f"{result['kernel']:8} {'x'.join(map(str, result['blocks'][:2])):8} " + (
            f"{result['blocks'][2]} warps {result['blocks'][3]} stages"
        )
        if "failed" in result:
            return f"{case.name:12} {name}: {result['failed']}"
        rate = case.flops({"forward": 2, "dq": 3, "dkv": 4}[result["kernel"]]) / result["seconds"]
        return (
            f"{case.name:12} {name} {1e3 * result['seconds']:8.3f} ms {rate / 1e12:6.0f} TFLOP/s  "
            f"error {max(result['errors']):.1e}{'' if result['right'] else '  WRONG'}"
        )
    if "failed" in result:
        return f"{case.name:12} {result['backend']:8} {result['failed']}"
    columns = [
        f"{1e3 * result[way]:8.3f} ms {case.flops(products) / result[way] / 1e12:6.1f} TFLOP/s"
        for way, products in (("forward", 2), ("backward", 5))
    ]
    errors = [f"{name} {value:.1e}" for name, value in result.get("errors", {}).items()]
    wrong = "" if result.get("right", True) else "  WRONG"
    return f"{case.name:12} {result['backend']:8} {'  '.join(columns)}  {' '.join(errors)}{wrong}"


def backends_here() -> list[str]:
    """Those that compute on this device, but for those that are interpreted on it."""
    device = jax.devices()[0]
    names = [name for name, where in RUNS_ON.items() if device.platform == where[0]]
    return names + [name for name in BACKENDS if name not in RUNS_ON]


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="causal:4096,causal:8192,tree:4096", metavar="ROWS")
    parser.add_argument("--backends", default=",".join(backends_here()), metavar="NAMES")
    parser.add_argument("--batch", type=int, default=1, help="how many rows")
    parser.add_argument("--heads", type=int, default=16, help="of queries; Qwen3-1.7B has 16")
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-width", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--calls", type=int, default=20, help="timed together")
    parser.add_argument("--blocks", action="store_true", help="try other blocks for `triton`")
    parser.add_argument("--torch", action="store_true", help="time PyTorch's flash attention")
    parser.add_argument("--json", metavar="FILE", help="write all figures to it")
    args = parser.parse_args(argv)
    backends = [name for name in args.backends.split(",") if name]
    if unknown := set(backends) - set(BACKENDS):
        raise InputError(f"--backends {','.join(unknown)}: there is {', '.join(BACKENDS)}.")
    jax.config.update("jax_default_matmul_precision", precision_of(args.dtype))
    device = jax.devices()[0]
    print(
        f"{device.device_kind}, jax {jax.__version__}, {args.dtype}, {args.batch} x heads "
        f"{args.heads}/{args.kv_heads} of {args.head_width}"
    )
    results = []
    for name in args.rows.split(","):
        case = make_case(name, args)
        print(f"{name}: {case.q.shape[1]} tokens, {case.pairs:,} pairs", flush=True)
        for result in measure_all(case, backends, args):
            print(line_of(result, case), flush=True)
            results.append(result)
    if args.json:
        about = {"device": device.device_kind, "jax": jax.__version__, "arguments": vars(args)}
        Path(args.json).write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    if not all(result["right"] for result in results if result.get("backend") in backends):
        raise SystemExit(1)


def measure_all(
    case: Case, backends: Sequence[str], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The figures of a row, one after the other."""
    with jax.default_matmul_precision("highest"):
        wanted = jax.block_until_ready(expected(case.q, case.k, case.v, case.sight, case.dout))
    for backend in backends:
        try:
            yield measure(case, backend, wanted, args.calls)
        except Exception as reason:  # out of memory, or what the compiler does not like
            failed = {"row": case.name, "backend": backend, "failed": first_line(reason)}
            yield failed | {"right": backend == "dense"}  # which needs memory for all pairs
    if args.torch and case.name.startswith("causal"):
        try:
            yield measure_torch(case, args.calls)
        except Exception as reason:  # it is not there, or was built for other GPUs
            yield {"row": case.name, "backend": "torch", "failed": first_line(reason)}
    if args.blocks:
        yield from measure_blocks(case, wanted, args.calls)


if __name__ == "__main__":
    cli.run(main)
