"""The sampler compared with Hugging Face `generate`: the same random model, in one run.

    python benchmarks/generate.py
    python benchmarks/generate.py --batches 1,16 --prompts 64 --json figures.json

Both decode greedily in float32 on two threads, prefill included; Hugging Face with sdpa and its
default cache. They take turns, so that a machine whose speed drifts is fair to both, and the
fastest of --repeats counts. `same`: the share of replies whose tokens agree. Then a queue of
requests of unequal lengths in 16 rows, against groups of 16 that Hugging Face decodes until the
longest of each has ended. `bytes` are those that a decoded token has to read: the model's weights,
shared by the rows, and the keys and values of its own sequence; `moved` is the rate at which the
sampler did.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from interact_jax import cli, memory, sharding  # noqa: E402
from interact_jax.arguments import Parser  # noqa: E402
from interact_jax.generation import Request, Sampler, SamplingParams  # noqa: E402
from interact_jax.models import hf  # noqa: E402
from interact_jax.models.attention import backend_for  # noqa: E402
from interact_jax.models.decoder import Decoder  # noqa: E402
from interact_jax.models.shapes import SHAPES  # noqa: E402

ROWS = 16  # of the queue
Reply = list[int]


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model-shape", default="small", help="a name of interact_jax.models.shapes")
    add("--batches", default="1,16,64", help="sequences at a time, comma-separated")
    add("--prompts", default="64,512", help="tokens of a prompt, comma-separated")
    add("--new-tokens", type=int, default=128)
    add("--queue", type=int, default=256, help="requests of 8 to 256 new tokens; 0 = none")
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=2)
    add("--json", default="", metavar="FILE", help="write the figures there")
    args = parser.parse_args(argv)
    memory.keep_freed()
    cli.keep_compiled()
    torch.set_num_threads(args.threads)
    figures = compare(args)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    both = Both.of(args)
    rng = np.random.default_rng(0)

    def prompts(count: int, length: int) -> list[Reply]:
        return rng.integers(1, both.decoder.config.vocab_size - 1, (count, length)).tolist()

    figures = []
    for length in map(int, args.prompts.split(",")):
        for batch in map(int, args.batches.split(",")):
            each = prompts(batch, length)
            new = [args.new_tokens] * batch
            figure = both.race(f"batch {batch}", each, new, batch, args.repeats)
            figures.append(figure)
            print(describe(figure), flush=True)
    if args.queue:
        each = prompts(args.queue, 64)
        new = rng.integers(8, 257, args.queue).tolist()
        figure = both.race(f"queue of {args.queue}", each, new, ROWS, max(1, args.repeats // 2))
        figures.append(figure)
        print(describe(figure), flush=True)
    return figures


@dataclasses.dataclass
class Both:
    """The same weights in both; `sampler` is the one that was used last."""

    theirs: Any
    decoder: Decoder
    params: Any
    samplers: dict[int, Sampler]

    @classmethod
    def of(cls, args: argparse.Namespace) -> Both:
        torch.manual_seed(0)
        raw = dict(SHAPES[args.model_shape])
        settings = AutoConfig.for_model(raw.pop("model_type"), **raw)
        model = AutoModelForCausalLM.from_config(
            settings, attn_implementation="sdpa", dtype=torch.float32, trust_remote_code=False
        ).eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            _, config = hf.load_config(folder)
            params = hf.load_params(folder, config, jnp.float32)
        model.generation_config.eos_token_id = None
        mesh = sharding.make_mesh(devices=jax.devices()[:1])
        return cls(model, Decoder(config, attention=backend_for("auto", mesh)), params, {})

    def race(
        self, name: str, prompts: list[Reply], new: list[int], rows: int, repeats: int
    ) -> dict[str, Any]:
        """Both in turns; the first turn, which compiles, does not count."""
        ways: dict[str, Callable[[], list[Reply]]] = {
            "ours": lambda: self.sample(prompts, new, rows),
            "theirs": lambda: self.generate(prompts, new, rows),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        replies = {}
        for turn in range(repeats + 1):
            for way, run in ways.items():
                began = time.perf_counter()
                replies[way] = run()
                if turn:
                    seconds[way].append(time.perf_counter() - began)
        best = {way: min(times) for way, times in seconds.items()}
        tokens = sum(new)
        read = self.bytes_read(prompts, new, rows)
        same = np.mean([a == b for a, b in zip(*replies.values(), strict=True)])
        return {
            "name": name,
            "prompt": len(prompts[0]),
            "rows": rows,
            "tokens": tokens,
            **{f"{way}_seconds": best[way] for way in ways},
            "ratio": best["theirs"] / best["ours"],
            "tokens_per_second": tokens / best["ours"],
            "same": float(same),
            "weights": sum(x.nbytes for x in jax.tree.leaves(self.params)),
            "bytes_per_token": read / tokens,
            "bytes_per_second": read / best["ours"],
        }

    def sample(self, prompts: list[Reply], new: list[int], rows: int) -> list[Reply]:
        sampler = self.samplers.get(rows)
        if sampler is None:
            eos = [self.decoder.config.vocab_size - 1]
            sampler = self.samplers[rows] = Sampler(self.decoder, eos, rows=rows)
        sampler.load(self.params)  # nothing is known of the turn before
        requests = [
            Request(prompt, SamplingParams(count, temperature=0.0))
            for prompt, count in zip(prompts, new, strict=True)
        ]
        return [completion.ids for completion in sampler.sample(requests)]

    def generate(self, prompts: list[Reply], new: list[int], rows: int) -> list[Reply]:
        replies: list[Reply] = []
        for start in range(0, len(prompts), rows):
            ids = torch.tensor(prompts[start : start + rows])
            counts = new[start : start + rows]
            with torch.inference_mode():
                out = self.theirs.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max(counts),
                    do_sample=False,
                    pad_token_id=0,
                )
            for row, count in zip(out, counts, strict=True):
                replies.append(row[ids.shape[1] : ids.shape[1] + count].tolist())
        return replies

    def bytes_read(self, prompts: Sequence[Reply], new: Sequence[int], rows: int) -> float:
        """Bytes that decoding must read: the weights once per step of all rows, and every token's
        keys and values."""
        c = self.decoder.config
        embedding = c.vocab_size * c.width * 4  # a row of it for each token
        weights = sum(x.nbytes for x in jax.tree.leaves(self.params)) - embedding
        pair = 2 * c.layers * c.kv_heads * c.head_width * jnp.dtype(self.decoder.dtype).itemsize
        steps = sum(new) / min(rows, len(prompts))
        seen = sum(
            count * len(prompt) + count * (count - 1) / 2
            for prompt, count in zip(prompts, new, strict=True)
        )
        return steps * weights + seen * pair


def describe(figure: dict[str, Any]) -> str:
    return (
        f"{figure['name']:12} prompt {figure['prompt']:4}: {figure['ours_seconds']:7.2f} s, "
        f"Hugging Face {figure['theirs_seconds']:7.2f} s, ratio {figure['ratio']:.2f}, "
        f"{figure['tokens_per_second']:6.0f} tokens/s, same {figure['same']:.0%}; "
        f"{figure['bytes_per_token'] / 1e6:.1f} MB a token (weights "
        f"{figure['weights'] / 1e6:.0f} MB), moved {figure['bytes_per_second'] / 1e9:.1f} GB/s"
    )


if __name__ == "__main__":
    cli.run(main)
