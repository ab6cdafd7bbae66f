"""Cases of damaged input: a file or a text that a program reads, with one thing wrong."""

from __future__ import annotations

import gzip
import json
import os
import random
import reprlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interact_jax import checkpoint, config, places, sharding
from interact_jax.data.chat import ChatFormat
from interact_jax.data.conversations import read_conversations
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.limits import Limits
from interact_jax.data.records import find_files
from interact_jax.generation import encode_prompt, read_prompts
from interact_jax.metrics import Journal, summary_lines
from interact_jax.models import hf
from interact_jax.models.hf.tensor_files import parse_size
from interact_jax.opening import open_model
from interact_jax.optim import make_optimiser
from launch import export, generate, score
from tests.faults import large_logs, mutations, stores, talks
from tests.faults.programs import read_plan
from tests.faults.stand import ENCODED, Case, Program, Stand, encoded, prompt_lines
from tests.runs import ROOT

QUICKSTART = str(ROOT / "configs/quickstart.py")
# ----------------------------------------------------------------------------- what data there is


def conversations(rng: random.Random, stand: Stand) -> Case:
    found = talks.damaged(rng)
    format = rng.choice(["auto", talks.FORMATS.get(found.form, found.form)])
    file = talks.write(found, stand.scratch)
    is_encoded = rng.random() < ENCODED

    def opened() -> str:
        (stand.scratch / "sound").mkdir()
        sound, _ = talks.read(found, talks.write(found, stand.scratch / "sound", "sound"), format)
        assert sound, f"{found.form}: the sound file does not come through"
        if said := talks.silent(found, sound, *talks.read(found, file, format)):
            raise talks.Silent(said)
        if is_encoded:
            encoded(stand, file, format, stand.chat, found.recipe)
        else:
            read_conversations(str(file), format)
        return ""

    def program() -> Program:
        given = ["--model", str(stand.folder / "several"), "--data", str(file), "--format", format]
        out = str(stand.scratch / "scores.jsonl")
        return score.main, [*given, "--out", out, "--on-error", "skip", "--attention", "xla"]

    return Case(f"format {format}, {found.recipe}, {found.what}", opened, program)


def prompts(rng: random.Random, stand: Stand) -> Case:
    lines = [json.dumps(line) for line in prompt_lines()]
    sound = ("\n".join(lines) + "\n").encode()
    if rng.random() < 0.5:
        index = rng.randrange(len(lines))
        lines[index], what = mutations.of_value(prompt_lines()[index], rng)
        data, what = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"), f"{index}: {what}"
    else:
        data, what = mutations.of_bytes(sound, rng)
    file = stand.scratch / rng.choice(["prompts.jsonl", "prompts.jsonl.gz"])
    file.write_bytes(gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)

    def opened() -> str:
        found = read_prompts(file)
        for prompt in found:
            encode_prompt(prompt, stand.chat, 512)
        as_written = sound.split(b"\n")
        for prompt in found:
            number = int(prompt.source.rpartition(":")[2]) - 1
            line = data.split(b"\n")[number]
            if line in as_written and line and json.loads(line) != prompt.line:
                return f"line {number + 1} is not as it was written"
        return ""

    def program() -> Program:
        given = ["--model", str(stand.folder / "several"), "--prompts", str(file)]
        out = str(stand.scratch / "replies.jsonl")
        return generate.main, [*given, "--out", out, "--max-new-tokens", "4"]

    return Case(f"{file.name}: {what}", opened, program)


# --------------------------------------------------------------------------------- a model's files


def damage(file: Path, rng: random.Random) -> str:
    """Put a damaged file in the place of a sound one; what was done to it."""
    data = file.read_bytes()
    if file.suffix == ".safetensors":
        changed, what = _damaged_weights(data, rng)
    elif file.suffix == ".json" and rng.random() < 0.6:
        text, what = mutations.of_value(json.loads(data), rng)
        changed = text.encode("utf-8", "surrogatepass")
    else:
        changed, what = mutations.of_bytes(data, rng)
    file.unlink()  # it may have another name where it stays as it was
    file.write_bytes(changed)
    return f"{file.name}: {what}"


def _damaged_weights(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    (length,) = struct.unpack("<Q", data[:8])
    header, numbers = data[8 : 8 + length], data[8 + length :]
    chosen = rng.random()
    if chosen < 0.5:
        text, what = mutations.of_value(json.loads(header), rng)
        header = text.encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(header)) + header + numbers, f"header: {what}"
    if chosen < 0.8:
        start, what = mutations.of_bytes(data[: 8 + length], rng)
        return start + numbers, f"header: {what}"
    return mutations.of_bytes(data, rng)


def model_file(rng: random.Random, stand: Stand) -> Case:
    sound = stand.folder / rng.choice(["several", "one"])
    place = shutil.copytree(sound, stand.scratch / "model", copy_function=os.link)
    kinds = {file.name.rstrip("0123456789")[:7]: file for file in sorted(place.iterdir())}
    file = kinds[rng.choice(sorted(kinds))]
    what = f"{sound.name}: {damage(file, rng)}"

    def opened() -> str:
        model = open_model(place, attention="xla")
        encoded(stand, stand.folder / "talks.jsonl", "native", model.chat, "hindsight")
        model.chat.pieces(model.chat.encode("Hi, what is this?"))
        (stand.scratch / "copy").mkdir()
        hf.copy_tokenizer(place, stand.scratch / "copy")
        if "tokenizer" not in file.name and "template" not in file.name:
            model.load()
        return ""

    programs = [_generates, _scores, _plans]
    if file.name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        programs.append(_exports)
    chosen = rng.choice(programs)
    return Case(what, opened, lambda: chosen(stand, place, file))


def _generates(stand: Stand, model: Path, file: Path) -> Program:
    given = ["--model", str(model), "--prompts", str(stand.folder / "prompts.jsonl")]
    out = str(stand.scratch / "replies.jsonl")
    return generate.main, [*given, "--out", out, "--max-new-tokens", "4"]


def _scores(stand: Stand, model: Path, file: Path) -> Program:
    given = ["--model", str(model), "--data", str(stand.folder / "talks.jsonl")]
    return score.main, [*given, "--out", str(stand.scratch / "scores.jsonl"), "--attention", "xla"]


def _plans(stand: Stand, model: Path, file: Path) -> Program:
    return read_plan, [*planned(model, stand.folder / "talks.jsonl")]


def _exports(stand: Stand, model: Path, file: Path) -> Program:
    """Of a run whose `model/` has that file, and no digests: an earlier version wrote it."""
    run = shutil.copytree(stand.run(), stand.scratch / "run")
    shutil.copyfile(file, run / "model" / file.name)
    for digests in (run / "model").glob("digests-*"):
        digests.unlink()
    return export.main, ["--checkpoint", str(run), "--out", str(stand.scratch / "out")]


def planned(model: Path | str, data: Path | str) -> list[str]:
    """Arguments of a plan."""
    paths = [f"--config.model.path={model}", f"--config.data.path={data}"]
    return ["--config", QUICKSTART, "--config.data.max_length=512", *paths]


# --------------------------------------------------------------------------------- a run's files


def log_lines(steps: int) -> list[bytes]:
    values = {"loss": 0.5, "signal_mean": -0.25, "grad_norm": 1.5, "lr": 1e-5, "limited": 0.5}
    counts = {"interactions": 4, "reply_tokens": 40, "tokens": 90, "padding": 0.25, "seconds": 0.5}
    return [json.dumps({"step": n, **values, **counts}).encode() for n in range(1, steps + 1)]


def run_log(rng: random.Random, stand: Stand) -> Case:
    sound = log_lines(6)
    first = rng.randrange(1, 7)
    data, what = mutations.of_bytes(b"\n".join(sound) + b"\n", rng)
    if rng.random() < 0.5:
        index = rng.randrange(len(sound))
        text, what = mutations.of_value(json.loads(sound[index]), rng)
        lines = [*sound[:index], text.encode("utf-8", "surrogatepass"), *sound[index + 1 :]]
        data, what = b"\n".join(lines) + b"\n", f"line {index + 1}: {what}"
    file = stand.scratch / "metrics.jsonl"
    file.write_bytes(data)

    def opened() -> str:
        untouched = [line for line in sound[:first] if line in data.split(b"\n")]
        Journal(stand.scratch, first, 6, "signal_mean").__exit__()
        kept = file.read_bytes().split(b"\n")
        if lost := [line for line in untouched if line not in kept]:
            return f"lines are gone: {lost}"
        summary_lines(file)
        sum(json.loads(line)["seconds"] for line in kept if line)
        return ""

    return Case(f"metrics.jsonl, going on from {first}: {what}", opened)


def run_config(rng: random.Random, stand: Stand) -> Case:
    cfg = config.load(QUICKSTART, ["--config.data.path=talks.jsonl"])
    file = stand.scratch / "config.json"
    config.write(cfg, file)
    what = damage(file, rng)

    def opened() -> str:
        config.check_resume(cfg, file)
        return ""

    return Case(f"of a run: {what}", opened)


# ---------------------------------------------------------------------------- settings and names

TEXTS = (
    *(
        "",
        " ",
        "-",
        "-1",
        "0",
        "1",
        "1e400",
        "-inf",
        "nan",
        "1_0",
        "\u0663",
        "0x10",
        "TRUE",
        "None",
    ),
    *("..", "/dev/null", "~nobody/x", "a/b", "a/b/c", "a" * 5000, "a" * 300, "[", "*[", "{o}"),
    *("\0", "x\0y", "\x1b[31m", "a\nb", "\udcff", "\ud83d", "\ufeff", "\u202e", "7" * 5000),
    *("-" * 200, "a--b", "a/..", ".a/b", "models--a--b", "file:///etc/passwd", "99999999999999"),
)
CHOSEN = ("model.path", "model.tokenizer", "hindsight", "start_from")


def strange_text(rng: random.Random) -> str:
    return rng.choice([*TEXTS, *(s for s in mutations.STRANGE if len(s) < 10_000)])


def settings(rng: random.Random, stand: Stand) -> Case:
    names = sorted(config.flatten(config.default()))
    given = [f"--config.{rng.choice(names)}={strange_text(rng)}" for _ in range(rng.choice([1, 3]))]
    if rng.random() < 0.2:
        given[0] = mutations.of_bytes(given[0].encode(errors="replace"), rng)[0].decode(
            errors="surrogateescape"
        )
    base = [f"--config.data.path={stand.folder / 'talks.jsonl'}", "--config.data.max_length=512"]
    base.append(f"--config.model.path={stand.folder / 'several'}")

    def opened() -> str:
        cfg = config.load(QUICKSTART, [*base, *given])
        config.write(cfg, stand.scratch / "config.json")
        config.check_resume(cfg, stand.scratch / "config.json")
        for use in (EncodeSettings.of, Limits.of, lambda c: make_optimiser(c.optim)):
            use(cfg)
        for path in (cfg.model.path, cfg.model.tokenizer or "pocket"):
            hf.resolve(path, weights=False)
        ChatFormat.load(stand.folder / "several", cfg.hindsight, cfg.data.reply_tokens)
        sharding.make_mesh(**cfg.mesh)
        if cfg.start_from:
            checkpoint.find(cfg.start_from)
        return ""

    data = stand.folder / "talks.jsonl"
    arguments = [*planned(stand.folder / "several", data), *given]
    return Case(" ".join(map(reprlib.repr, given)), opened, lambda: (read_plan, arguments))


NAMED: dict[str, Callable[[str], Any]] = {
    "model": lambda text: open_model(text, attention="xla"),
    "data": find_files,
    "prompts": read_prompts,
    "checkpoint": checkpoint.find,
    "config": config.load,
    "out": lambda text: places.check_output(f"--out {text}", text),
    "export": hf.check_place,
    "size": parse_size,
}


def names(rng: random.Random, stand: Stand) -> Case:
    """A path, a hub id or a size, as somebody may type it."""
    option, text = rng.choice(sorted(NAMED)), strange_text(rng)
    if rng.random() < 0.3:
        damaged = mutations.of_bytes(b"Qwen/Qwen3-0.6B", rng)[0]
        text = damaged.decode(errors="surrogateescape")
    model, out = str(stand.folder / "several"), str(stand.scratch / "out.jsonl")
    sound = str(stand.folder / "prompts.jsonl")
    programs: dict[str, Program] = {
        "model": (generate.main, [f"--model={text}", "--prompts", sound, "--out", out]),
        "data": (score.main, ["--model", model, f"--data={text}", "--out", out]),
        "checkpoint": (export.main, [f"--checkpoint={text}", f"--out={stand.scratch / 'out'}"]),
        "config": (read_plan, [f"--config={text}"]),
    }

    def opened() -> str:
        NAMED[option](text)
        return ""

    program = programs.get(option)
    return Case(f"{option} {text[:60]!r}", opened, (lambda: program) if program else None)


KINDS: dict[Callable[[random.Random, Stand], Case], int] = {
    conversations: 8,
    large_logs.parquet: 6,
    large_logs.tables: 4,
    stores.mapping: 1,
    stores.prepared: 2,
    stores.unfinished: 2,
    stores.trees: 2,
    prompts: 2,
    model_file: 6,
    run_log: 1,
    run_config: 1,
    settings: 2,
    names: 1,
}
"""And how often each comes."""


def case(number: int, seed: int, stand: Stand, kind: str = "") -> Case:
    """The case of this number, of all kinds or of one."""
    rng = random.Random(f"{seed}-{number}")
    make = rng.choices([*KINDS], [*KINDS.values()])[0]
    return next((each for each in KINDS if each.__name__ == kind), make)(rng, stand)
