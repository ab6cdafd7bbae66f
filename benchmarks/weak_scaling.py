"""How long a step takes on 8 to 4,096 chips, on paper: one row a chip, so twice the chips do twice
the work, and what the chips send one another is all that may slow them down.

    python launch/plan.py ... --json plan.json            compiles a step for a small slice
    python benchmarks/weak_scaling.py --add plan.json     keeps its figures in the file
    python benchmarks/weak_scaling.py                     what docs/scaling.md quotes of the file

libtpu compiles the trainer's step, and the file has a line for each mesh: the bytes that a device
sends, by axis of the mesh and kind of collective. From these follows what all sizes send. What goes
round over fsdp is the model's weights and gradients, however many devices share them, and each of n
sends (n - 1) / n of it; and the hidden states of replies, which each device sends to the n - 1
others, since the vocabulary is divided among them (`scoring.VOCABULARY`). Between slices go a
device's own gradients in float32, and of these each of s slices sends 2 (s - 1) / s. Where a law
has been compared with several compiled programs, the tables say how far the farthest is from it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # programs find one another there

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

from interact_jax import chips, cli
from interact_jax.arguments import Parser
from interact_jax.models.shapes import shape
from interact_jax.schema import InputError

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "data" / "weak_scaling.jsonl"
MODEL = "qwen3-32b"
HOP = 1e-6  # seconds from a chip to its neighbour, as "How to Scale Your Model" has it (chips.py)
WIDTH = 4  # bytes of a gradient between slices
GATHERS = 4  # of the hidden states of replies in a step; it explains what v5e:8x8 x 2 gathers
BYTES = 2  # of one of their numbers
CHIPS = tuple(2**n for n in range(3, 13))


class Layout(NamedTuple):
    """Slices of at most so many chips, over all of which fsdp goes; the others over the network."""

    name: str
    kind: str  # of chip, a key of chips.CHIPS
    dimensions: int  # of the torus that joins the chips of a slice
    slice: int
    least: int = 8
    most: int = 4096

    def mesh(self, count: int) -> dict[str, int]:
        within = min(count, self.slice)
        return {"slice": count // within, "fsdp": within}


LAYOUTS = (
    Layout("v5p, one slice", "tpu v5p", 3, 1024, most=1024),  # fsdp has to divide the model's width
    Layout("v5p, slices of 64", "tpu v5p", 3, 64),
    Layout("v5e, slices of 256", "tpu v5 lite", 2, 256, least=128),
)
Line = Mapping[str, Any]  # of the file


# ----------------------------------------------------------------------------- what is compiled


def kept(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a plan's JSON, which need not fit. Raises InputError for one that cannot be
    compared."""
    if plan["seconds"] is None or plan["micro_batches"] != 1:
        raise InputError(
            f"{plan['model']} on {plan['topology']}: a plan that was compiled, whose steps have "
            "one micro-batch, was expected. Set batch.interactions=1."
        )
    names = [
        *("model", "parameters", "topology", "devices", "mesh", "rows", "memory", "programs"),
        *("flops", "seconds", "compile_seconds", "versions"),
    ]
    return {"chip": plan["chip"]["name"], **{name: plan[name] for name in names}}


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []


# ---------------------------------------------------------------------------- how traffic grows


def traffic(line: Line, between_slices: bool) -> tuple[int, int]:
    """(collectives, bytes that a device sends in them) in a step, within a slice or not. Permutes
    are those of a ring that gathers or sums while it computes: n - 1 of them are one collective."""
    runs = sent = 0
    for program in line["programs"].values():
        for axes, kinds in program["by_axes"].items():
            if ("slice" in axes.split("+")) == between_slices:
                for kind, found in kinds.items():
                    steps = line["mesh"]["fsdp"] - 1 if kind == "collective-permute" else 1
                    runs, sent = runs + found["count"] // steps, sent + found["bytes"]
    return runs, sent


class Law(NamedTuple):
    """What goes round a ring in a step whatever its size, and of that each of n devices sends
    (n - 1) / n, and what it sends to each other one: the mean over so many meshes, and how far the
    farthest of them is from it."""

    bytes: float
    runs: float
    spread: float
    meshes: int
    to_each: float = 0

    def sent(self, n: int) -> float:
        return self.bytes * (n - 1) / n + self.to_each * (n - 1)

    def __str__(self) -> str:
        checked = {0: "derived; no mesh compiled", 1: "from one mesh: not checked"}
        said = checked.get(self.meshes, f"no mesh farther from it than {self.spread:.1%}")
        each = f" and {self.to_each / 1e9:.3f} GB to each other" if self.to_each else ""
        return f"{self.bytes / 1e9:.2f} GB{each}, in {self.runs:.0f} collectives ({said})"


def hidden_states(line: Line) -> float:
    """Bytes that a device sends to each other one for the head, which it computes for its part of
    the vocabulary and the replies of all rows."""
    return GATHERS * BYTES * line["rows"]["replies"] * shape(MODEL).width


def law(found: Sequence[tuple[int, int, float]], to_each: float) -> Law:
    """From (size of the ring, runs of collectives, bytes sent) of some meshes."""
    sizes = [(sent - to_each * (n - 1)) * n / (n - 1) for n, _, sent in found]
    mean = sum(sizes) / len(sizes)
    runs = sum(runs for _, runs, _ in found) / len(found)
    return Law(mean, runs, max(abs(size / mean - 1) for size in sizes), len(found), to_each)


def laws(lines: Sequence[Line]) -> dict[str, Law]:
    """Within a slice, and between slices of the gradients of a whole slice, which its devices
    share: derived, and compared with the lines that have several slices."""
    parameters = lines[0]["parameters"]
    rings = [(line["mesh"]["fsdp"], *traffic(line, False)) for line in lines]
    within = law(rings, hidden_states(lines[-1]))
    gradients, runs, spread, meshes = 2.0 * WIDTH * parameters, 0, 0.0, 1
    for line in lines:
        slices, fsdp = line["mesh"]["slice"], line["mesh"]["fsdp"]
        if slices > 1:
            (runs, sent), meshes = traffic(line, True), meshes + 1
            spread = max(spread, abs(sent * fsdp * slices / (slices - 1) / gradients - 1))
    # Derived: the first mesh that is compared with it checks it.
    return {"fsdp": within, "slice": Law(gradients, runs, spread, meshes if meshes > 1 else 0)}


def of_chip(lines: Iterable[Line], chip: str) -> list[Line]:
    """The meshes of MODEL on a kind of chip that have slices and fsdp alone, the smallest first.

    Raises InputError where there is none."""
    others = ("data", "tensor", "sequence")
    mine = [
        line
        for line in lines
        if (line["model"], line["chip"]) == (MODEL, chip)
        and all(line["mesh"][axis] == 1 for axis in others)
    ]
    if not mine:
        raise InputError(f"no line for {MODEL} on {chip}: --add a plan")
    return sorted(mine, key=lambda line: line["devices"])


# --------------------------------------------------------------------------------- what it takes


class Times(NamedTuple):
    """Seconds of a step and of its parts."""

    mesh: dict[str, int]
    compute: float
    interconnect: float
    network: float
    update: float

    @property
    def in_turn(self) -> float:
        """Where nothing is hidden."""
        return self.compute + self.interconnect + self.network + self.update

    @property
    def hidden(self) -> float:
        """Where the longest of computation, interconnect and network hides the others."""
        return max(self.compute, self.interconnect, self.network) + self.update

    def efficiency(self, step: float) -> float:
        """The step in which nothing is sent, relative to this one."""
        return (self.compute + self.update) / step


def hops(count: int, dimensions: int) -> int:
    """The hops to the farthest chip of a slice of a power of two chips, each side of which is a
    ring, and the sides as alike as they can be: 1 + 2 + 2 in 2 x 4 x 4."""
    sides = [1] * dimensions
    while count > 1:
        sides[sides.index(min(sides))] *= 2
        count //= 2
    return sum(side // 2 for side in sides)


def predict(layout: Layout, count: int, lines: Sequence[Line]) -> Times:
    """A step on so many chips. A chip computes what it does in the largest mesh of the file; the
    update goes through its share of the state."""
    chip = chips.CHIPS[layout.kind]
    mine, mesh = of_chip(lines, chip.name), layout.mesh(count)
    grown, largest, n = laws(mine), mine[-1], mesh["fsdp"]
    seconds = largest["seconds"]
    steps = grown["fsdp"].runs * hops(n, layout.dimensions)
    return Times(
        mesh,
        max(seconds["compute"], seconds["memory"]),
        grown["fsdp"].sent(n) / chip.link + steps * HOP,
        grown["slice"].sent(mesh["slice"]) / n / chip.network,
        seconds["update"] * largest["mesh"]["fsdp"] / n,
    )


# ------------------------------------------------------------------------------------ the tables


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown; all but the first column are numbers."""
    lines = [f"| {' | '.join(cells)} |" for cells in (names, *rows)]
    return [lines[0], "|---|" + "---:|" * (len(names) - 1), *lines[1:]]


def compiled_table(lines: Sequence[Line]) -> list[str]:
    """What a device sends in a step, GB, by axes."""
    rows = []
    for line in lines:
        mesh = " x ".join(f"{axis}={size}" for axis, size in line["mesh"].items() if size > 1)
        by_axes: dict[str, float] = {}
        for program in line["programs"].values():
            for axes, kinds in program["by_axes"].items():
                gb = sum(t["bytes"] for t in kinds.values()) / 1e9
                by_axes[axes] = by_axes.get(axes, 0) + gb
        rows.append([line["topology"], mesh, by_axes])
    columns = sorted({axes for *_, by_axes in rows for axes, gb in by_axes.items() if gb >= 0.005})
    shown = ([f"{t}, {m}", *(f"{b[c]:.2f}" if c in b else "" for c in columns)] for t, m, b in rows)
    return table(["mesh", *columns], shown)


def predicted_table(layout: Layout, lines: Sequence[Line]) -> list[str]:
    names = [
        *("chips", "slices x fsdp", "compute", "interconnect", "network", "update"),
        *("step, in turn", "efficiency", "step, hidden", "efficiency"),
    ]
    rows = []
    for count in (n for n in CHIPS if layout.least <= n <= layout.most):
        t = predict(layout, count, lines)
        parts = (t.compute, t.interconnect, t.network, t.update)
        steps = [s for step in (t.in_turn, t.hidden) for s in (step, t.efficiency(step))]
        rows.append(
            [
                f"{count:,}",
                f"{t.mesh['slice']} x {t.mesh['fsdp']:,}",
                *(f"{part:.3f}" for part in parts),
                *(
                    f"{x:.1%}".replace("%", " %") if n % 2 else f"{x:.3f}"
                    for n, x in enumerate(steps)
                ),
            ]
        )
    return table(names, rows)


def tables(lines: Sequence[Line]) -> list[str]:
    """All that docs/scaling.md quotes."""
    result = compiled_table(lines)
    for chip in sorted({chips.CHIPS[layout.kind].name for layout in LAYOUTS}):
        for axis, found in laws(of_chip(lines, chip)).items():
            result.append(f"- {chip}, over {axis}: {found}")
    for layout in LAYOUTS:
        result += ["", f"{layout.name}:", "", *predicted_table(layout, lines)]
    return result


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, metavar="FILE", help="a plan's JSON to keep")
    parser.add_argument("--file", type=Path, default=FILE, help="a line for each mesh")
    args = parser.parse_args(argv)
    if args.add:
        line = kept(json.loads(args.add.read_text()))
        with args.file.open("a") as out:
            out.write(json.dumps(line) + "\n")
    cli.show(*tables(read(args.file)))


if __name__ == "__main__":
    cli.run(main)
