"""Export a checkpoint to a Hugging Face directory.

    python launch/export.py --checkpoint runs/wild --out wild-hf --max-shard-size 5GB

--checkpoint is the --workdir of a run (its newest checkpoint) or its checkpoints/STEP.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import jax
import jax.numpy as jnp

from interact_jax import checkpoint, cli, sharding
from interact_jax.data.chat import ChatFormat
from interact_jax.models import hf
from interact_jax.models.decoder import Decoder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="run or checkpoint")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--max-shard-size", default="5GB", help="of a weight file (default 5GB)")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    args = parser.parse_args(argv)
    cli.log_to_stderr(logging.INFO)

    run, step = checkpoint.find(args.checkpoint)
    files = run / "model"
    raw, config = hf.load_config(files)
    decoder = Decoder(config, param_dtype=jnp.float32)
    mesh = sharding.make_mesh()
    shapes = sharding.with_layout(jax.eval_shape(decoder.fresh_params, 0), mesh)
    params = checkpoint.restore_params(str(run / "checkpoints" / str(step)), shapes)
    hf.export(
        params,
        config,
        raw,
        Path(args.out),
        dtype=args.dtype,
        source_dir=files,
        tokenizer_dir=files,
        eos_ids=[ChatFormat.load(files).eos_id],
        max_shard_size=args.max_shard_size,
    )
    print(f"step {step} of {run}: {args.out}")


if __name__ == "__main__":
    cli.run(main)
