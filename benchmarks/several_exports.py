"""Import and export of a model of 1 GB by two processes: memory, files, and what SIGKILL leaves.

    python benchmarks/several_exports.py

A random model in float32 is imported by two processes, each a half of every tensor, and saved as
the checkpoint of a run. `launch/export.py` exports that, by one process and by two. A process has
to stay below its share of the parameters and two output files; what a process takes that has only
loaded jax and our libraries is counted apart. An export by two processes is then killed at
random moments, one of them or both, and repeated; and a file of the model is cut short. It takes
3 GB, 6 GB on disk and about five minutes on two cores. Exit status 1 where something is not as it
has to be.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import dataclasses
import functools
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import psutil

from interact_jax import checkpoint, cli, config, digests, memory, pocket, run_state, sharding
from interact_jax.arguments import Parser
from interact_jax.cluster import processes
from interact_jax.models import hf
from interact_jax.models.families import read_config
from interact_jax.models.hf.exporting import PARTIAL
from interact_jax.models.hf.rules import RULES, letter_sizes, rules_of, tensors
from interact_jax.models.hf.tensor_files import INDEX, SINGLE, parse_size, write_tensors
from interact_jax.opening import open_model

ROOT = Path(__file__).resolve().parents[1]
MODEL = {
    "model_type": "qwen3",
    "vocab_size": 32_768,
    "hidden_size": 1_024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 4_096,
    "tie_word_embeddings": False,
}
FILE = "200MB"
STEP = 1  # of the checkpoint
PROCESSES = 2
MOST_WAIT = 0.5  # seconds from a file to SIGKILL
PATIENCE = 600  # seconds for processes to end
KILLED: tuple[tuple[int, ...], ...] = ((0,), (1,), (0, 1))
LOOK = 0.02  # seconds between looks at the memory of processes
JAX_ALONE = "import jax; jax.devices()"
LIBRARIES = "import launch.export, jax; jax.devices()"


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.import_to:
        import_and_save(args)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        measure(Path(name), args.kills, random.Random(args.seed))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--folder", help="where a temporary directory is made (default: the system's)")
    add("--kills", type=cli.at_least(0), default=4, help="exports that are killed")
    add("--seed", type=int, default=0, help="of the moments at which they are")
    add("--model", default="", help="the model, for --import-to")
    add("--import-to", default="", metavar="RUN", help="what the processes do that this one starts")
    cli.add_place(parser)
    return parser.parse_args(argv)


# ------------------------------------------------------------------------ what is measured


@dataclasses.dataclass(frozen=True)
class Measured:
    """What processes did together: the peak memory of each in bytes, their exit status, what they
    wrote, and how long it took."""

    peaks: list[int]
    statuses: list[int]
    said: list[str]
    seconds: float


def measure(folder: Path, kills: int, rng: random.Random) -> None:
    """Print what comes of it; exits where something is wrong."""
    model, run = folder / "model", folder / "run"
    size = write_model(model)
    alone, libraries = (together(folder, [["-c", x]]).peaks[0] for x in (JAX_ALONE, LIBRARIES))
    print(
        f"{size / 1e9:.2f} GB in {len(list(model.glob('*.safetensors')))} files of {FILE} at most; "
        f"a process that has only loaded jax has {memory.format_bytes(alone)}, with our libraries "
        f"{memory.format_bytes(libraries)}",
        flush=True,
    )
    imported = by_processes(PROCESSES, folder, *import_command(model, run))
    peaks = [json.loads(text.splitlines()[-1])["peak"] for text in imported.said]
    good = report("import by 2", dataclasses.replace(imported, peaks=peaks), size, libraries)
    one, two, out = folder / "one", folder / "two", folder / "out"
    for count, place in ((1, one), (PROCESSES, two)):
        exported = by_processes(count, folder, *export_command(run, place))
        good &= report(f"export by {count}", exported, size, libraries)
    same = contents(one) == contents(two)
    print(f"files of the exports by 1 and by 2: {'identical' if same else 'DIFFERENT'}")
    whole = {name: x for name, x in contents(model).items() if name.endswith(".safetensors")}
    unchanged = whole.items() <= contents(two).items()
    print(f"weights as they were imported: {'identical' if unchanged else 'DIFFERENT'}")
    good &= same and unchanged
    shutil.rmtree(one)
    for _ in range(kills):
        good &= kill_and_repeat(run, out, contents(two), rng)
    good &= refuse_truncated(model, folder)
    sys.exit(not good)


def report(what: str, found: Measured, size: int, libraries: int) -> bool:
    """Print a line of the table; whether the memory is within its bound."""
    assert not any(found.statuses), "\n".join(found.said)
    share, extra = size / len(found.peaks), 2 * parse_size(FILE)
    taken = [peak - libraries for peak in found.peaks]
    good = max(taken) < share + extra
    print(
        f"{what}: {found.seconds:.0f} s; a process takes at most "
        f"{memory.format_bytes(max(taken))} more than that; its share is "
        f"{memory.format_bytes(share)}, with two files {memory.format_bytes(share + extra)}"
        f"{'' if good else ': TOO MUCH'}",
        flush=True,
    )
    return good


def contents(directory: Path) -> dict[str, str]:
    """The digests of all files of a directory but the model card, by name."""
    names = sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
    names = [name for name in names if name != "README.md"]
    return dict(zip(names, digests.of_files([directory / name for name in names]), strict=True))


# ------------------------------------------------------------------------------- processes


def import_command(model: Path, run: Path) -> list[str]:
    return [__file__, "--model", str(model), "--import-to", str(run)]


def export_command(run: Path, out: Path) -> list[str]:
    program = str(ROOT / "launch" / "export.py")
    given = ["--checkpoint", str(run), "--out", str(out), "--dtype", "float32"]
    return [program, *given, "--max-shard-size", FILE]


def by_processes(count: int, folder: Path, *command: str) -> Measured:
    """What so many processes do together with this command."""
    if count == 1:
        return together(folder, [command])
    place = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(count)]
    return together(folder, [[*command, *place, "--process", str(i)] for i in range(count)])


def free_port() -> int:
    """One that is free, as is the next, most likely, where supervisors meet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def together(folder: Path, commands: Sequence[Sequence[str]]) -> Measured:
    """Run Python with each of these arguments, all at the same time."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        outputs = [(Path(name) / str(n)).open("w+") for n in range(len(commands))]
        started = [
            subprocess.Popen(
                [sys.executable, *command], stdout=output, stderr=output, env=environment()
            )
            for command, output in zip(commands, outputs, strict=True)
        ]
        peaks = [0] * len(started)
        while any(process.poll() is None for process in started):
            for n, process in enumerate(started):
                peaks[n] = max(peaks[n], peak_of(process.pid))
            if time.monotonic() - began > PATIENCE:
                for process in started:
                    process.kill()
            time.sleep(LOOK)
        said = [Path(output.name).read_text() for output in outputs]
    statuses = [process.wait() for process in started]
    return Measured(peaks, statuses, said, time.monotonic() - began)


def peak_of(pid: int | str) -> int:
    """The most memory in bytes that a process has had at a time; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# ----------------------------------------------------------------------------- the model


def write_model(folder: Path) -> int:
    """A random model, with the pocket model's tokenizer; its bytes."""
    folder.mkdir()
    hf.copy_tokenizer(Path(pocket.MODEL), folder)
    (folder / "config.json").write_text(json.dumps(MODEL))
    shape = read_config(MODEL, "config.json")
    has = set(jax.tree.leaves(rules_of(shape)))
    rules = tensors([rule for rule in RULES if rule in has], shape)
    sizes = letter_sizes(shape)
    shapes = {name: rule.their_shape(sizes) for name, (rule, _) in rules.items()}
    rng = np.random.default_rng(0)

    def make(name: str, wanted: bool) -> np.ndarray:
        return 0.02 * rng.standard_normal(shapes[name], np.float32)

    write_tensors(folder, shapes, make, 4, parse_size(FILE))
    return 4 * sum(math.prod(shape) for shape in shapes.values())


def import_and_save(args: argparse.Namespace) -> None:
    """Import the model as a run does, print the peak of this process so far, and write the
    directory of a run with a checkpoint."""
    place = cli.place_of(args)
    cli.log_as(place)
    memory.keep_freed()
    cli.join(place)
    mesh = sharding.make_mesh(data=1, fsdp=-1)
    model = open_model(args.model, mesh=mesh, attention="xla")
    params = jax.block_until_ready(model.load())
    peak = peak_of("self")
    optimiser, run = optax.sgd(0.1), Path(args.import_to)
    abstract = run_state.abstract_state(model.decoder, optimiser, mesh, {})
    begin = functools.partial(run_state.new_state, optimiser=optimiser, rules={})
    state = jax.jit(begin, out_shardings=sharding.layout_of(abstract), donate_argnums=0)(params)
    if processes.is_first():
        run.mkdir()
        config.write(config.default(), run / "config.json")
        checkpoint.keep_model_files(model.files, model.raw, model.tokenizer_files, run)
    processes.meet("directory made")
    checkpoints = checkpoint.Checkpoints(run, SimpleNamespace(keep=1, damaged="stop"))
    checkpoints.begin(overlapping=False)
    checkpoints.save(STEP, state.replace(step=state.step + STEP), {"position": {}})
    checkpoints.close()
    print(json.dumps({"peak": peak}))
    processes.leave()


# ------------------------------------------------------------------------------- faults


def kill_and_repeat(run: Path, out: Path, whole: dict[str, str], rng: random.Random) -> bool:
    """Kill an export at a random moment, and repeat it; whether what is there is right, both
    times."""
    count = sum(name.endswith(".safetensors") for name in whole)
    chosen, files, wait = rng.choice(KILLED), rng.randint(0, count), rng.uniform(0, MOST_WAIT)
    command = [str(ROOT / "launch" / "supervise.py"), "--local", str(PROCESSES)]
    command += ["--coordinator", f"127.0.0.1:{free_port()}", *export_command(run, out)]
    started = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        partial = out / PARTIAL
        while started.poll() is None and not (
            partial.exists() and len(list(partial.glob("*.safetensors"))) >= files
        ):
            time.sleep(LOOK / 10)
        time.sleep(wait)
        for number, pid in list(children(started.pid)):
            if number in chosen:
                os.kill(pid, signal.SIGKILL)
        _, said = started.communicate(timeout=PATIENCE)
    finally:
        started.terminate()
    left = state_of(out, whole)
    repeated = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment()
    )
    then, beside = state_of(out, whole), (out / PARTIAL).exists()
    names = " and ".join(map(str, chosen))
    print(
        f"process {names} killed {wait:.1f} s after file {files} (status {started.returncode}): "
        f"{left}; repeated (status {repeated.returncode}): {then}{', and leftovers' * beside}",
        flush=True,
    )
    if "was ended by SIGKILL" not in said:
        print(f"  it said: {said.splitlines()[-1:]}")
    return left != WRONG and then == WHOLE and not beside and repeated.returncode == 0


NOTHING, WHOLE, WRONG = "no model", "the whole model", "SOMETHING ELSE"


def state_of(out: Path, whole: dict[str, str]) -> str:
    """What a loader finds at the place of an export."""
    if not any((out / name).exists() for name in (SINGLE, INDEX)):
        return NOTHING
    found = {name: x for name, x in contents(out).items() if not name.startswith(PARTIAL)}
    return WHOLE if found == whole else WRONG


def children(parent: int) -> Iterator[tuple[int, int]]:
    """The number and the process id of what a supervisor has started."""
    for child in psutil.Process(parent).children():
        try:
            yield int(child.environ()["INTERACT_PROCESS"]), child.pid
        except (psutil.Error, KeyError):
            continue


def refuse_truncated(model: Path, folder: Path) -> bool:
    """Import a model with a file that is cut short; whether that is named. Where process 0 is the
    first to end, jax ends the other before it can say anything."""
    file = sorted(model.glob("*.safetensors"))[1]
    os.truncate(file, file.stat().st_size - 1000)
    found = by_processes(PROCESSES, folder, *import_command(model, folder / "refused"))
    said = [line for line in "\n".join(found.said).splitlines() if f"{file}: damaged" in line]
    good = bool(said) and all(found.statuses)
    print(f"a file that is cut short: {'named' if good else 'NOT NAMED'}, status {found.statuses}")
    print(*(f"  {line.replace(str(folder), '...')}" for line in said), sep="\n", flush=True)
    return good


if __name__ == "__main__":
    cli.run(main)
