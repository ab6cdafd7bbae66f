"""The traffic between devices in a compiled program, read from its text (HLO).

XLA's own figures (`cost_analysis`) count the body of a loop once and do not name collectives.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_HEADER = re.compile(r"^(?:ENTRY )?(%[\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?(%[\w.\-]+) = (\([^=]*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALL = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=(%[\w.\-]+)")
_CALLS = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")


@dataclasses.dataclass
class Traffic:
    """Collectives of one kind: how often they run and what each device sends, in bytes."""

    count: int = 0
    bytes: int = 0


@dataclasses.dataclass(frozen=True)
class _Instruction:
    result: str
    op: str
    rest: str  # operands and attributes

    def operands(self) -> list[str]:
        return re.findall(r"%[\w.\-]+", self.rest.partition(")")[0])


Computation = dict[str, _Instruction]  # in order; the root is the last


def collectives(text: str, devices: int) -> dict[str, Traffic]:
    """The collectives in one run of the program, by kind; those in loops times the loop's length.

    Bytes are those that each device sends in a ring over the collective's group. An asynchronous
    collective that a fusion spreads over several steps has one channel and counts once; loops whose
    length depends on data count once. What the TPU compiler sends between slices is not included.
    """
    return _sum(
        (kind, key, times, _bytes_sent(kind, instruction, devices, fused))
        for kind, key, times, instruction, fused in _found(_parse(text))
    )


def across_slices(text: str, devices: int, slices: int) -> dict[str, Traffic]:
    """The collectives between devices of several slices, in one run of the program, as
    `collectives` counts. A slice has devices that follow one another in the program's numbering.

    The TPU compiler writes what goes between slices as transfers by the host, each of a device's
    part: its bytes are those of a ring over the slices.
    """
    computations, per_slice = _parse(text), devices // slices

    def crosses(instruction: _Instruction) -> bool:
        groups = _groups(instruction.rest, devices)
        return any(len({device // per_slice for device in group}) > 1 for group in groups)

    of_program = (
        (kind, key, times, _bytes_sent(kind, instruction, devices, fused))
        for kind, key, times, instruction, fused in _found(computations)
        if crosses(instruction)
    )
    return _sum(itertools.chain(of_program, _by_hosts(computations, slices)))


Found = tuple[str, str, int, int]  # kind, what identifies the collective, runs, bytes of them all


def _sum(found: Iterable[Found]) -> dict[str, Traffic]:
    """The traffic by kind; what has one key counts once."""
    costs: dict[tuple[str, str], tuple[int, int]] = {}
    for kind, key, times, size in found:
        cost = (times, times * size)
        costs[kind, key] = max(costs.get((kind, key), (0, 0)), cost)
    traffic: dict[str, Traffic] = {}
    for (kind, _), (times, size) in costs.items():
        total = traffic.setdefault(kind, Traffic())
        total.count += times
        total.bytes += size
    return traffic


def _found(
    computations: dict[str, Computation],
) -> Iterator[tuple[str, str, int, _Instruction, bool]]:
    """(kind, key, runs, instruction, whether it is a part of a fusion that scatters)."""
    for name, times in _run_counts(computations).items():
        for label, instruction in computations[name].items():
            kind = instruction.op.removesuffix("-start")
            if kind not in KINDS:
                continue
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"  # its form on TPUs: a fusion that keeps a slice
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            yield kind, channel[1] if channel else label, times, instruction, "scatter" in name


def _by_hosts(computations: dict[str, Computation], slices: int) -> Iterator[Found]:
    """What the hosts of TPUs send between slices."""
    for name, times in _run_counts(computations).items():
        for label, instruction in computations[name].items():
            transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.rest)
            if instruction.op != "send" or transfer is None:
                continue
            kind = transfer[1].lower().replace("_", "-")
            part = max(_byte_size(*array) for array in _ARRAY.findall(instruction.result))
            twice = 2 if kind == "all-reduce" else slices  # an all-reduce sends parts of a part
            yield kind, label, times, twice * part * (slices - 1) // slices


def _parse(text: str) -> dict[str, Computation]:
    computations: dict[str, Computation] = {}
    body: Computation = {}
    for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
        if header := _HEADER.match(line):
            body = computations[header[1]] = {}
        elif instruction := _INSTRUCTION.match(line):
            body[instruction[1]] = _Instruction(*instruction.groups()[1:])
    return computations


def _run_counts(computations: dict[str, Computation]) -> dict[str, int]:
    """How often each computation runs; the entry is the one that no other calls."""
    callees = {
        name: [
            call
            for instruction in body.values()
            for call in _calls(instruction, body, computations)
        ]
        for name, body in computations.items()
    }
    called = {callee for calls in callees.values() for callee, _ in calls}
    times = dict.fromkeys(computations, 0)

    def visit(name: str, factor: int) -> None:
        times[name] += factor
        for callee, trips in callees[name]:
            visit(callee, factor * trips)

    for name in computations:
        if name not in called:
            visit(name, 1)
    return times


def _calls(
    instruction: _Instruction, body: Computation, computations: dict[str, Computation]
) -> Iterator[tuple[str, int]]:
    if instruction.op == "while":
        loop = re.search(r"condition=(%[\w.\-]+), body=(%[\w.\-]+)", instruction.rest)
        assert loop, f"a while without condition and body: {instruction.rest}"
        yield loop[2], _trip_count(instruction, body, computations[loop[1]], computations[loop[2]])
        return
    names = _CALL.findall(instruction.rest)
    for listed in _CALLS.findall(instruction.rest):
        names += re.findall(r"%[\w.\-]+", listed)
    for name in names:
        if name in computations:
            yield name, 1


def _trip_count(
    loop: _Instruction, outside: Computation, condition: Computation, body: Computation
) -> int:
    """How often a loop runs: while (i < bound) i += step, all of them constants; else 1."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    if not condition:
        return 1
    comparison = list(condition.values())[-1]
    if comparison.op != "compare" or "direction=LT" not in comparison.rest:
        return 1
    counter, bound = (condition.get(name) for name in comparison.operands())
    limit = _constant(bound)
    # The index of the counter in the loop's state: newer compilers write `%param#0` where older
    # ones have an instruction that extracts it.
    index = re.search(r"#(\d+)", comparison.rest.partition(")")[0])
    if index is None and counter is not None:
        index = re.search(r"index=(\d+)", counter.rest)
    if limit is None or index is None:
        return 1
    position = int(index[1])
    carried = outside.get(loop.operands()[0]) if loop.operands() else None
    first = _constant(_element(carried, position, outside), outside) or 0
    increment = _element(list(body.values())[-1], position, body)
    steps = [_constant(body.get(name)) for name in increment.operands()] if increment else []
    step = next((value for value in steps if value), 1)
    return max(0, math.ceil((limit - first) / step))


def _element(
    instruction: _Instruction | None, index: int, body: Computation
) -> _Instruction | None:
    """The element of a tuple at this index."""
    if instruction is None or instruction.op != "tuple":
        return None
    return body.get(instruction.operands()[index])


def _constant(instruction: _Instruction | None, body: Computation | None = None) -> int | None:
    if instruction is not None and instruction.op == "copy" and body is not None:
        instruction = body.get(instruction.operands()[0])
    value = (
        re.match(r"(-?\d+)\)", instruction.rest)
        if instruction is not None and instruction.op == "constant"
        else None
    )
    return int(value[1]) if value else None


def _bytes_sent(kind: str, instruction: _Instruction, devices: int, fused: bool) -> int:
    """Bytes that each device sends, in a ring."""
    sizes = [_byte_size(*array) for array in _ARRAY.findall(instruction.result)]
    # The start of an asynchronous gather or permute returns its operand, too.
    both = instruction.op in ("all-gather-start", "collective-permute-start")
    size = max(sizes, default=0) if both else sum(sizes)
    n = len(_groups(instruction.rest, devices)[0])
    if kind == "collective-permute":
        return size
    if kind == "all-reduce":
        return 2 * size * (n - 1) // n
    if kind == "reduce-scatter" and not fused:
        return size * (n - 1)  # its result is one device's share
    return size * (n - 1) // n


def _byte_size(dtype: str, dimensions: str) -> int:
    return BYTES.get(dtype, 4) * math.prod(int(n) for n in dimensions.split(",") if n)


def _groups(attributes: str, devices: int) -> list[list[int]]:
    """The devices that take part together, from any of the notations of HLO.

    {{0,1},{2,3}}; [2,2]<=[4]; [2,2]<=[2,2]T(1,0) for {{0,2},{1,3}}, and for the same
    mesh['a'=2,'b'=2] {'a'} and mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'};
    source_target_pairs={{0,1}}.
    """
    if mesh := _MESH.search(attributes):
        return _groups_of_mesh(mesh["axes"], mesh["among"], mesh["ids"] or "")
    if iota := re.search(r"replica_groups=(\[[\d,]+\])<=(\S*)", attributes):
        return _iota(iota[2]).reshape(_integers(iota[1])).tolist()
    if listed := _LISTED.search(attributes):
        return [_integers(group) for group in re.findall(r"[\d,]*\d", listed[1])]
    return [list(range(devices))]


_MESH = re.compile(
    r"replica_groups=mesh\[(?P<axes>[^\]]*)\](?:, device_ids=\((?P<ids>.*?)\))?"
    r" \{(?P<among>[^}]*)\}"
)
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")


def _integers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def _iota(text: str) -> np.ndarray:
    """Numbers from 0 in this shape, transposed where that is said: [2,4]T(1,0)."""
    dimensions, _, order = text.partition("T")
    sizes = _integers(dimensions)
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(_integers(order) or None)


def _groups_of_mesh(axes: str, among: str, ids: str) -> list[list[int]]:
    """The groups over some axes, or parts of axes ('a':(1)2 = the outer half of a 4), of a mesh
    whose devices have these numbers, by default in their order."""
    sizes = {name: int(n) for name, n in re.findall(r"('[^']*')=(\d+)", axes)}
    parts: dict[str, tuple[int, int]] = {}  # axis -> (size of what is outside the part, its size)
    for name, before, size in re.findall(r"('[^']*')(?::\((\d+)\)(\d+))?", among):
        parts[name] = (int(before or 1), int(size or sizes[name]))
    dimensions: list[int] = []
    inside: list[int] = []  # which of the dimensions make a group
    for name, size in sizes.items():
        before, part = parts.get(name, (1, 1))
        if part > 1:
            inside.append(len(dimensions) + 1)
        dimensions += [before, part, size // (before * part)]
    if ids.startswith("["):
        numbers = _iota(ids)
    else:
        numbers = np.array(_integers(ids) or range(math.prod(dimensions)))
    grouped = np.moveaxis(numbers.reshape(dimensions), inside, range(-len(inside), 0))
    return grouped.reshape(-1, math.prod(dimensions[n] for n in inside)).tolist()
