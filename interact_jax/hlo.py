"""The traffic between devices in a compiled program, read from its text (HLO).

XLA's own figures (`cost_analysis`) count the body of a loop once and do not name collectives.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

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


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program: what it moves over which axes of the mesh, and how often."""

    kind: str
    axes: tuple[str, ...]  # in which the devices of a group differ
    dtype: str
    shape: tuple[int, ...]  # of the largest array of its result, or of what a host sends
    count: int  # runs
    bytes: int  # that each device sends in all of them


def collectives(text: str, devices: int) -> dict[str, Traffic]:
    """The collectives in one run of the program, by kind; those in loops times the loop's length.

    Bytes are those that each device sends in a ring over the collective's group. An asynchronous
    collective that a fusion spreads over several steps has one channel and counts once; loops whose
    length depends on data count once. What the TPU compiler sends between slices is not included.
    """
    return total(each(text, {"device": devices}))


def across_slices(text: str, devices: int, slices: int) -> dict[str, Traffic]:
    """The collectives between devices of several slices, in one run of the program, as
    `collectives` counts. A slice has devices that follow one another in the program's numbering.
    """
    found = each(text, {"slice": slices, "device": devices // slices})
    return total(collective for collective in found if "slice" in collective.axes)


def total(found: Iterable[Collective]) -> dict[str, Traffic]:
    """The traffic by kind."""
    traffic: dict[str, Traffic] = {}
    for collective in found:
        of_kind = traffic.setdefault(collective.kind, Traffic())
        of_kind.count += collective.count
        of_kind.bytes += collective.bytes
    return traffic


def by_axes(found: Iterable[Collective]) -> dict[str, dict[str, Traffic]]:
    """The traffic by the axes that it goes over ("fsdp", "fsdp+tensor") and by kind."""
    groups: dict[str, list[Collective]] = {}
    for collective in found:
        groups.setdefault("+".join(collective.axes), []).append(collective)
    return {axes: total(group) for axes, group in sorted(groups.items())}


def each(text: str, sizes: Mapping[str, int]) -> list[Collective]:
    """Every collective of the program for a mesh of these axes, outermost first, as the program
    numbers its devices.

    With an axis "slice", what the TPU compiler lets hosts send between slices is included: each
    device's part, whose bytes are those of a ring over the slices.
    """
    computations = _parse(text)
    found = itertools.chain(
        _of_program(computations, sizes), _by_hosts(computations, sizes.get("slice", 1))
    )
    largest: dict[tuple[str, str], Collective] = {}  # what has one key counts once
    for key, one in found:
        known = largest.get((one.kind, key))
        if known is None or (known.count, known.bytes) < (one.count, one.bytes):
            largest[one.kind, key] = one
    return list(largest.values())


Found = tuple[str, Collective]  # what identifies it, such as its channel


def _of_program(computations: dict[str, Computation], sizes: Mapping[str, int]) -> Iterator[Found]:
    for name, times in _run_counts(computations).items():
        for label, instruction in computations[name].items():
            kind = instruction.op.removesuffix("-start")
            if kind not in KINDS:
                continue
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"  # its form on TPUs: a fusion that keeps a slice
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            groups = _groups(instruction.rest, math.prod(sizes.values()))
            sent = _bytes_sent(kind, instruction, len(groups[0]), "scatter" in name)
            yield (
                channel[1] if channel else label,
                Collective(
                    *(kind, _axes(groups, sizes), *_largest(instruction)), times, times * sent
                ),
            )


def _by_hosts(computations: dict[str, Computation], slices: int) -> Iterator[Found]:
    """What the hosts of TPUs send between slices."""
    for name, times in _run_counts(computations).items():
        for label, instruction in computations[name].items():
            transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.rest)
            if slices == 1 or instruction.op != "send" or transfer is None:
                continue
            kind = transfer[1].lower().replace("_", "-")
            dtype, shape = _largest(instruction)
            twice = 2 if kind == "all-reduce" else slices  # an all-reduce sends parts of a part
            sent = twice * _byte_size(dtype, shape) * (slices - 1) // slices
            yield label, Collective(kind, ("slice",), dtype, shape, times, times * sent)


def _axes(groups: Sequence[Sequence[int]], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The axes in which the devices of some group differ."""
    differ = np.zeros(len(sizes), bool)
    for group in groups:
        places = np.array(np.unravel_index(group, tuple(sizes.values())))  # [axes, devices]
        differ |= (places != places[:, :1]).any(axis=1)
    return tuple(axis for axis, differs in zip(sizes, differ, strict=True) if differs)


def _largest(instruction: _Instruction) -> tuple[str, tuple[int, ...]]:
    """Type and shape of the largest array of its result."""
    return max(_arrays(instruction), key=lambda array: _byte_size(*array), default=("", ()))


def _arrays(instruction: _Instruction) -> list[tuple[str, tuple[int, ...]]]:
    found = _ARRAY.findall(instruction.result)
    return [(dtype, tuple(_integers(dimensions))) for dtype, dimensions in found]


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


def _bytes_sent(kind: str, instruction: _Instruction, n: int, fused: bool) -> int:
    """Bytes that each of n devices sends, in a ring."""
    sizes = [_byte_size(*array) for array in _arrays(instruction)]
    # The start of an asynchronous gather or permute returns its operand, too.
    both = instruction.op in ("all-gather-start", "collective-permute-start")
    size = max(sizes, default=0) if both else sum(sizes)
    if kind == "collective-permute":
        return size
    if kind == "all-reduce":
        return 2 * size * (n - 1) // n
    if kind == "reduce-scatter" and not fused:
        return size * (n - 1)  # its result is one device's share
    return size * (n - 1) // n


def _byte_size(dtype: str, shape: Sequence[int]) -> int:
    return BYTES.get(dtype, 4) * math.prod(shape)


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
