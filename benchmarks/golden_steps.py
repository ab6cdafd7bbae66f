"""One training step on this machine's device against the same step on its CPU.

    python benchmarks/golden_steps.py
    python benchmarks/golden_steps.py --attention triton,xla --json golden.json
    python benchmarks/golden_steps.py --oracle DIRECTORY

The step is plain SGD on the pocket model and some of its logs. The CPU computes it in float32 by
the dense formula; the device by every backend of attention, in both ways of sharing, in float32 and
bfloat16. What is compared is the loss, the norm of the gradient, and the gradient's norm of every
parameter, each as a relative difference. Whoever has numbers that another program computed, gives
their directory: `model/`, `conversations.jsonl` and `summary.json` with `loss_mean`, `grad_norm`,
`grad_norms` by parameter, and `sgd_lr`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # programs find one another there
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "launch"))

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

import jax
import numpy as np
from safetensors.numpy import load_file

import train
from interact_jax import cli, pocket
from interact_jax.arguments import Parser
from interact_jax.models.attention import BACKENDS, RUNS_ON

ROOT = Path(__file__).resolve().parents[1]
RATE = 0.05
SETTINGS = {
    "model.param_dtype": "float32",
    "export.dtype": "float32",
    "data.history": "conversation",
    "hindsight": "offline",
    "batch.interactions": 0,
    "batch.conversations": 6,
    "batch.row_tokens": 640,
    "steps": 1,
    "epochs": 0,
    "optim.name": "sgd",
    "optim.lr": RATE,
    "optim.weight_decay": 0,
    "optim.schedule": "constant",
    "optim.warmup_fraction": 0,
    "optim.clip_norm": "inf",
    "objective.name": "sdpo",
    "objective.ignore_first": 2,
    "evaluation.name": "none",
    "evaluation.holdout": 0,
    "report.interactions": 0,
    "check_hindsight": 0,
}
BOUND = {"float32": 1e-4, "bfloat16": 0.1}
"""The largest relative difference that is right: sums in another order; and what two digits leave
of a mean in which terms cancel."""


class Step(NamedTuple):
    """The figures of a step; `norms`: of the gradient of every parameter."""

    loss: float
    grad_norm: float
    norms: dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--attention", default="", metavar="NAMES", help="backends; empty = all for this device")
    add("--sharing", default="tree,none", help="ways of sharing")
    add("--dtype", default="float32,bfloat16", help="types of the computation")
    add("--oracle", default="", metavar="DIRECTORY", help="model, data and numbers to hold against")
    add("--json", default="", metavar="FILE", help="write all figures there")
    args = parser.parse_args(argv)
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}")
    given = inputs(args.oracle)
    wanted = oracle_step(Path(args.oracle)) if args.oracle else reference_step(given)
    results = []
    for way in ways(args, device.platform):
        begin = time.monotonic()
        result = measure(given, way, wanted)
        results.append(result)
        text = result.get("failed") or "  ".join(
            f"{name} {value:.1e}" for name, value in result["differences"].items()
        )
        verdict = "right" if result["right"] else "WRONG"
        seconds = time.monotonic() - begin
        print(f"{' '.join(way.values()):24} {text}  {verdict}  {seconds:.0f} s", flush=True)
        if args.json:
            about = {"device": device.device_kind, "jax": jax.__version__, "arguments": vars(args)}
            Path(args.json).write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    if not all(result["right"] for result in results):
        raise SystemExit(1)


def measure(given: dict[str, str], way: dict[str, str], wanted: Step) -> dict[str, Any]:
    """The settings of a step, how far it is from what is wanted, and whether that is right."""
    try:
        off = differences(take_step(given, way), wanted)
    except (Exception, SystemExit) as reason:  # whatever the compiler or the device does not do
        text = f"failed: {type(reason).__name__}: {str(reason).strip()[:160]}"
        return {**way, "failed": text, "right": False}
    right = all(value <= BOUND[way["model.dtype"]] for value in off.values())  # no NaN is
    return {**way, "differences": off, "right": right}


def ways(args: argparse.Namespace, platform: str) -> Iterator[dict[str, str]]:
    """Settings of every step to be made."""
    here = [name for name in BACKENDS if platform in RUNS_ON.get(name, (platform,))]
    names = args.attention.split(",") if args.attention else here
    for values in itertools.product(names, args.sharing.split(","), args.dtype.split(",")):
        yield dict(zip(("attention", "sharing", "model.dtype"), values, strict=True))


def inputs(oracle: str) -> dict[str, str]:
    if not oracle:
        return {"model.path": "pocket", "data.path": "pocket"}
    return {
        "model.path": str(Path(oracle) / "model"),
        "data.path": str(Path(oracle) / "conversations.jsonl"),
    }


def arguments(workdir: str, settings: dict[str, Any]) -> list[str]:
    config = str(ROOT / "configs/quickstart.py")
    overrides = [f"--config.{name}={value}" for name, value in {**SETTINGS, **settings}.items()]
    return ["--config", config, "--workdir", workdir, "--quiet", *overrides]


def take_step(given: dict[str, str], way: dict[str, str]) -> Step:
    """The step on this process's device."""
    with tempfile.TemporaryDirectory() as workdir:
        with contextlib.redirect_stdout(sys.stderr):
            train.main(arguments(workdir, {**given, **way}))
        return read_step(Path(workdir), model_of(given))


def reference_step(given: dict[str, str]) -> Step:
    """The step in float32 by the dense formula, computed by a process that sees the CPU alone."""
    way = {"attention": "dense", "sharing": "none", "model.dtype": "float32"}
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, str(ROOT / "launch/train.py")]
        subprocess.run(
            [*command, *arguments(workdir, {**given, **way})],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=sys.stderr,
            check=True,
        )
        return read_step(Path(workdir), model_of(given))


def model_of(given: dict[str, str]) -> Path:
    return Path(pocket.MODEL) if given["model.path"] == "pocket" else Path(given["model.path"])


def read_step(workdir: Path, model: Path) -> Step:
    """What a run has written: the gradients are what plain SGD made of the parameters."""
    line = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    before, after = tensors(model), tensors(workdir / "export")
    norms = {
        name: float(np.linalg.norm(before[name].astype(np.float64) - after[name])) / RATE
        for name in after
    }
    return Step(line["loss"], line["grad_norm"], norms)


def oracle_step(oracle: Path) -> Step:
    golden = json.loads((oracle / "summary.json").read_text())
    assert golden["sgd_lr"] == RATE, golden["sgd_lr"]
    return Step(golden["loss_mean"], golden["grad_norm"], golden["grad_norms"])


def tensors(directory: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= load_file(file)
    return found


def differences(found: Step, wanted: Step) -> dict[str, float]:
    """Relative differences; of parameters, the largest."""
    return {
        "loss": abs(found.loss / wanted.loss - 1),
        "gradient": abs(found.grad_norm / wanted.grad_norm - 1),
        "parameters": max(abs(found.norms[n] / norm - 1) for n, norm in wanted.norms.items()),
    }


if __name__ == "__main__":
    cli.run(main)
