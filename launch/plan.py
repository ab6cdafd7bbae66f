"""Does a run fit on a TPU slice, and how long does a step take? Needs no TPU.

    python launch/plan.py --config configs/offline_wildfeedback.py --topology v5e:4x4 \\
        --model-shape qwen3-8b --config.mesh.data=1 --config.mesh.fsdp=-1
    python launch/plan.py --config configs/offline_wildfeedback.py --topology v5p:2x2x2
    python launch/plan.py --config configs/offline_wildfeedback.py --topology v5e:8x8 \\
        --model-shape qwen3-32b --config.mesh.slices=2 --config.mesh.data=1 --config.mesh.fsdp=-1

Compiles the trainer's own step for the slice (pip install libtpu; a minute or two) and shows bytes
per device by the compiler's figures, FLOPs, collectives and an estimated time. If the run does not
fit, it looks for the first change that makes it fit. Set any setting with --config.KEY=VALUE.

The exit status is 0 whether the run fits or not; the file of --json has "fits".
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import json
import logging
import os

import jax
from ml_collections import ConfigDict

from interact_jax import cli, config, places, plan
from interact_jax.models.shapes import SHAPES, shape


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The named arguments, and the --config.KEY=VALUE ones unparsed."""
    parser = cli.settings_parser(__doc__)
    add = parser.add_argument
    add(
        "--topology",
        required=True,
        metavar="NAME",
        help="TPU slice: v5e:4x4, v5p:2x2x2, ... (each of mesh.slices); here = this machine",
    )
    shapes = ", ".join(SHAPES)
    add("--model-shape", metavar="NAME", help=f"in place of model.path, no download: {shapes}")
    add("--json", default="", metavar="FILE", help="write all figures there; - = standard output")
    add("--no-search", action="store_true", help="do not look for a change that makes it fit")
    return parser.parse_known_args(argv)


def main(argv: list[str] | None = None) -> None:
    args, overrides = parse(argv)
    cli.log_to_stderr(logging.INFO)
    if args.topology != plan.HERE and "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")  # nothing runs; the compiler needs no device
    cfg = config.load(args.config, overrides)
    if args.json:
        cli.check_output(args.json, option="--json")
    with cli.reserve_stdout(args.json):
        make_plan(args, cfg)


def make_plan(args: argparse.Namespace, cfg: ConfigDict) -> None:
    plan.mesh_on(cfg, args.topology)  # a wrong one is refused before anything is read
    if args.model_shape:
        work = plan.synthetic_work(cfg, shape(args.model_shape), args.model_shape)
    else:
        work = plan.work_of(cfg)
    result = plan.make_plan(cfg, work, args.topology)
    cli.show(*plan.lines(result))
    report = plan.to_json(result)
    if not result.fits and not args.no_search:
        change, better = plan.first_that_fits(cfg, work, args.topology)
        report["change"] = change
        report["changed"] = better and plan.to_json(better)
        if change is None or better is None:
            cli.show("\nNo change of remat, mesh, rows or slice that was tried makes it fit.")
        else:
            cli.show("\nIt fits with " + plan.format_change(change) + "\n")
            cli.show(*plan.lines(better))
    if args.json:
        places.write(args.json, json.dumps(report, indent=2) + "\n")
        cli.show(f"figures: {args.json}")


if __name__ == "__main__":
    cli.run(main)
