"""Export a checkpoint to a Hugging Face directory.

    python launch/export.py --checkpoint runs/wild --out wild-hf --max-shard-size 5GB

--checkpoint is the --workdir of a run (its newest checkpoint) or its checkpoints/STEP.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from interact_jax import ends

    ends.in_words()

import argparse
import logging

from interact_jax import checkpoint, cli
from interact_jax.json_files import read_json
from interact_jax.models import hf
from interact_jax.models.hf.tensor_files import parse_size
from interact_jax.opening import open_model


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="run or checkpoint")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--max-shard-size", default="5GB", help="of a weight file (default 5GB)")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--weights", default="policy", metavar="MODEL", help="or teacher: those of an average (ema)"
    )
    args = parser.parse_args(argv)
    cli.log_to_stderr(logging.INFO)

    run, step = checkpoint.find(args.checkpoint)
    hf.check_place(args.out, (run / "model",))
    parse_size(args.max_shard_size)
    files = checkpoint.check_model_files(run)
    settings = run / "config.json"
    end = read_json(settings).get("data.end", "auto") if settings.is_file() else "auto"
    model = open_model(files, weights=False, attention="xla", end=end)
    place = str(run / "checkpoints" / str(step))
    params = checkpoint.restore_params(place, model.abstract(), args.weights)
    model.export(params, args.out, args.dtype, args.max_shard_size)
    cli.show(f"step {step} of {run}: {args.out}")


if __name__ == "__main__":
    cli.run(main)
