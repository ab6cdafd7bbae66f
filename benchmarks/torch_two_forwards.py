"""Our training step compared with the usual one in PyTorch: a Hugging Face Qwen3 model of the same
size, two forwards per interaction, gradient checkpointing, no sharing, no padding.

    python benchmarks/torch_two_forwards.py --turns 1,8 --repeats 5

Each side has its own process; they take turns, so that a machine whose speed drifts is fair to
both. PyTorch uses fused attention (sdpa), a fused optimiser, and one interaction at a time, so that
nothing is padded. Its model computes the logits of every token, which is the default;
`--torch-logits replies` restricts it to the replies.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from interact_jax.data.encode import Unit


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model-shape", default="small", help="a Qwen3 shape of interact_jax.models.shapes")
    add("--turns", default="1,8", help="interactions of a conversation, comma-separated")
    add("--user-tokens", type=int, default=64)
    add("--reply-tokens", type=int, default=192)
    add("--followup-tokens", type=int, default=32)
    add(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16"],
        help="type of the computation",
    )
    add("--device", default="cpu", choices=["cpu", "cuda"], help="where PyTorch computes")
    add("--attention", default="auto", help="ours: a name of interact_jax.models.attention")
    add(
        "--torch-logits",
        default="all",
        choices=["all", "replies"],
        help="which logits PyTorch computes",
    )
    add(
        "--torch-keep-memory", action="store_true", help="glibc keeps freed memory for PyTorch, too"
    )
    add("--torch-attention", default="sdpa", help="theirs: sdpa, flash_attention_2, eager")
    add("--remat", default="full", help="ours: a name of REMAT_POLICIES")
    add("--repeats", type=int, default=5)
    add("--json", default="", help="write the figures there")
    add("--worker", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def windows(args: argparse.Namespace, turns: int) -> list[Unit]:
    import numpy as np

    from interact_jax.bench import Dialogue
    from interact_jax.models.shapes import SHAPES

    dialogue = Dialogue(turns, args.user_tokens, args.reply_tokens, args.followup_tokens)
    return dialogue.window(np.random.default_rng(0), SHAPES[args.model_shape]["vocab_size"])


def torch_step(args: argparse.Namespace, turns: int) -> Any:
    """A function that runs one training step in PyTorch."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from interact_jax.data.recipes import HINDSIGHT, PLAIN
    from interact_jax.models.shapes import SHAPES

    raw = dict(SHAPES[args.model_shape])
    settings = AutoConfig.for_model(raw.pop("model_type"), **raw)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        settings,
        attn_implementation=args.torch_attention,
        dtype=torch.float32,
        trust_remote_code=False,
    ).to(args.device)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-6, fused=True)
    interactions = []
    for (example,) in windows(args, turns):
        x, xo = (example.contexts[view].tolist() for view in (PLAIN, HINDSIGHT))
        interactions.append((x, xo, example.target.y.tolist()))
    mixed = torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bfloat16")

    def logps(context: list[int], y: list[int]) -> torch.Tensor:
        ids = torch.tensor([context + y[:-1]], device=args.device)
        keep = len(y) if args.torch_logits == "replies" else 0  # 0 = all, the default there
        logits = model(ids, logits_to_keep=keep, use_cache=False).logits[0, -len(y) :].float()
        target = torch.tensor(y, device=args.device)[:, None]
        return logits.log_softmax(-1).gather(1, target)[:, 0]

    def step() -> None:
        for x, xo, y in interactions:
            with mixed:
                with torch.no_grad():
                    teacher = logps(xo, y)
                student = logps(x, y)
            signal = (teacher - student).detach()
            (-(signal * student).mean() / len(interactions)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if args.device == "cuda":
            torch.cuda.synchronize()

    return step


def jax_step(args: argparse.Namespace, turns: int, way: str) -> Any:
    """A function that runs one of our training steps, `way` = tree or none."""
    import jax.numpy as jnp

    from interact_jax import bench, cli, sharding
    from interact_jax.data.recipes import RECIPES
    from interact_jax.data.tree import GROW
    from interact_jax.models.attention import backend_for
    from interact_jax.models.decoder import Decoder
    from interact_jax.models.shapes import shape

    cli.log_to_stderr(logging.WARNING)  # such as that the kernel cannot be compiled
    mesh = sharding.make_mesh()
    decoder = Decoder(
        shape(args.model_shape),
        dtype=jnp.dtype(args.dtype),
        remat=args.remat,
        attention=backend_for(args.attention, mesh),
    )
    row = bench.one_row(GROW[way](windows(args, turns), RECIPES["hindsight"].frozen))
    return bench.make_step(decoder, [row], way, mesh).run


def work(args: argparse.Namespace) -> None:
    """A worker: run a step for each line of stdin, and print its seconds."""
    import time

    from interact_jax import memory

    if args.worker != "torch" or args.torch_keep_memory:
        memory.keep_freed()  # like the programs that train, score and sample
    turns, way = int(args.turns), args.worker
    step = torch_step(args, turns) if way == "torch" else jax_step(args, turns, way)
    step()
    for _ in sys.stdin:
        begin = time.perf_counter()
        step()
        print(time.perf_counter() - begin, flush=True)


def main() -> None:
    args = parse()
    if args.worker:
        return work(args)
    results = []
    print(
        f"{'turns':>5s} {'PyTorch s':>10s} {'none s':>8s} {'tree s':>8s}   over PyTorch (medians)"
    )
    for turns in map(int, args.turns.split(",")):
        ways = ("torch", "none", "tree")
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        workers = {way: _start(way, turns) for way in ways}
        for _ in range(args.repeats + 1):
            for way, worker in workers.items():
                worker.stdin.write("\n")
                worker.stdin.flush()
                answer = worker.stdout.readline()
                if not answer:
                    sys.exit(f"the {way} worker ended with status {worker.wait()}")
                seconds[way].append(float(answer))
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
        counted = {way: values[1:] for way, values in seconds.items()}
        median = {way: statistics.median(values) for way, values in counted.items()}
        faster = {
            way: statistics.median(
                a / b for a, b in zip(counted["torch"], counted[way], strict=True)
            )
            for way in ("none", "tree")
        }
        print(
            f"{turns:5d} {median['torch']:10.3f} {median['none']:8.3f} {median['tree']:8.3f}   "
            f"none {faster['none']:.2f}x, tree {faster['tree']:.2f}x",
            flush=True,
        )
        results.append({"turns": turns, "seconds": counted, "over_torch": faster})
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


def _start(way: str, turns: int) -> Any:
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", way, "--turns", str(turns)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())},
    )


if __name__ == "__main__":
    main()
