"""Export a checkpoint to a Hugging Face directory.

    python launch/export.py --checkpoint runs/wild --out wild-hf --max-shard-size 5GB
    python launch/export.py --checkpoint runs/wild --out wild-hf --push-to-hub OWNER/NAME

--checkpoint is the --workdir of a run (its newest checkpoint) or its checkpoints/STEP. A model
card, README.md, says what was trained on what; a README.md of your own is left alone.

Several processes export together what one has no memory for, each its share, on files that all see:

    python launch/supervise.py --local 2 launch/export.py --checkpoint runs/wild --out wild-hf
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from interact_jax import card, checkpoint, cli, config, hub, metrics, sharding, stage, store
from interact_jax.arguments import Parser
from interact_jax.buckets import OutOfReach
from interact_jax.cluster import processes
from interact_jax.cluster.place import Place
from interact_jax.help_text import Paragraphs
from interact_jax.json_files import read_json
from interact_jax.models import hf
from interact_jax.models.families import read_config
from interact_jax.models.hf.tensor_files import parse_size
from interact_jax.opening import DTYPES, open_model
from interact_jax.schema import InputError, RunStopped
from interact_jax.stage import Stage

log = logging.getLogger("interact_jax.launch.export")

READ = ("model", "config.json", "metrics.jsonl", "summary.json")
"""The small files of a run that are read, also by the model card."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Paragraphs)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="run or checkpoint")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write")
    parser.add_argument(
        "--max-shard-size", default="5GB", help="most bytes of a weight file (default 5GB)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="type of the weights (default: the run's export.dtype)"
    )
    parser.add_argument(
        "--weights",
        default="policy",
        metavar="MODEL",
        help="whose weights: policy, or teacher, the average (ema)",
    )
    parser.add_argument("--push-to-hub", metavar="NAME", help="upload it as well; OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new hub repository private")
    cli.add_place(parser)
    cli.name_flags({"export.dtype": "--dtype"})
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    place = cli.place_of(args)
    cli.log_as(place)

    with in_reach(args):
        checked_and_exported(args, place)
    if args.push_to_hub is not None and processes.is_first():
        cli.show(f"pushed to {hub.push(args.out, args.push_to_hub, args.private)}")
    processes.leave()


@contextlib.contextmanager
def in_reach(args: argparse.Namespace) -> Iterator[None]:
    """Say which flag names a place in a store that fails, and that this program begins anew."""
    try:
        yield
    except OutOfReach as error:
        flags = {"--checkpoint": args.checkpoint, "--out": args.out}
        above = [  # the nearest is meant: one of them may be within the other
            (len(str(store.place(given))), name, given)
            for name, given in flags.items()
            if store.is_remote(given) and f"{error.place}/".startswith(f"{store.place(given)}/")
        ]
        _, name, given = max(above, default=(0, "--checkpoint", args.checkpoint))
        raise RunStopped(
            f"{name} {given}: {error.place}: {error.what} The run is as it was; the same command "
            "exports all of it again."
        ) from error


def checked_and_exported(args: argparse.Namespace, place: Place) -> None:
    """Export what the arguments say. Raises InputError, most of it before the others are joined."""
    if args.push_to_hub is not None:
        hub.check_name(args.push_to_hub)
        if store.is_remote(args.out):
            raise InputError(f"--out {args.out}: only a directory here can be pushed to the hub.")
    home, step = checkpoint.find(args.checkpoint)
    hf.check_place(args.out, (home / "model",))
    out = store.resolved(store.place(args.out))
    if out.is_relative_to(store.resolved(home / "checkpoints")):
        raise InputError(
            f"--out {args.out}: the run deletes older files there. Name another directory."
        )
    parse_size(args.max_shard_size)
    cli.join(place)
    step = int(processes.of_first("step", str(step)))  # a run that goes on may have more by now
    with stage.open(home, wanted=READ) as kept:
        export(args, kept, step)


def export(args: argparse.Namespace, kept: Stage, step: int) -> None:
    """Export a step of a run whose small files are these."""
    run, home = kept.folder, kept.home
    files = checkpoint.check_model_files(run)
    end, dtype = saved_setting(run, "data.end"), args.dtype or saved_setting(run, "export.dtype")
    processes.agree("what is exported", f"{args.weights} in {dtype}, {args.max_shard_size} a file")
    shape = read_config(read_json(files / "config.json"), str(files / "config.json"))
    mesh = sharding.storage_mesh(shape.width, shape.mlp_width)
    model = open_model(files, mesh=mesh, weights=False, attention="xla", end=end)
    place = str(home / "checkpoints" / str(step))
    warn_of_later_steps(kept, step, args.checkpoint)
    params = checkpoint.restore_params(place, model.abstract(), args.weights)
    model.export(params, args.out, dtype, args.max_shard_size)
    if processes.is_first():
        card.write(run, args.out, step, args.weights)
        cli.show(f"exported step {step} of {home} to {args.out}")
        point_to_best(kept, step)


def warn_of_later_steps(kept: Stage, step: int, given: str) -> None:
    """Say that the newest checkpoint of a run is not of the last step that its log has."""
    last = metrics.last_step(kept.folder / "metrics.jsonl")
    if last > step and Path(given).name != str(step):
        log.warning(
            "%s came to step %d by its log; its newest checkpoint is of step %d",
            kept.home,
            last,
            step,
        )


def point_to_best(kept: Stage, step: int) -> None:
    """Say where the best step is, if the run chose one and another is exported."""
    run, home = kept.folder, kept.home
    best = saved_setting(run, "checkpoint.best")
    if best == "none" or not (run / "summary.json").is_file():
        return
    try:
        chosen = read_json(run / "summary.json").get("step", step)
        is_another = chosen != step and chosen in checkpoint.finished_steps(home)
    except (InputError, OutOfReach):
        return  # it is only a hint
    if is_another:
        log.info(
            "The run's own export is step %d, the best by %s. To export that one: --checkpoint %s",
            chosen,
            best,
            home / "checkpoints" / str(chosen),
        )


def saved_setting(run: Path, name: str) -> str:
    """A setting of a run; its default where the run is older than it, or the file is damaged."""
    setting, file = config.settings()[name], run / "config.json"
    try:
        value = read_json(file).get(name, setting.default)
        setting.check(f"{file}: {name}", value)
    except InputError as error:
        log.warning("%s %s is taken to be %s.", error, name, setting.default)
        return str(setting.default)
    return str(value)


if __name__ == "__main__":
    cli.run(main)
