"""Break the package in small ways, one at a time, and see whether the tests notice.

    python benchmarks/mutants.py --out runs/mutants                   150 of them, drawn by --seed
    python benchmarks/mutants.py --out runs/mutants --minutes 30      goes on where it was
    python benchmarks/mutants.py --out runs/mutants --table           what came of it, survivors

A mutant is one change of one expression or statement: a comparison, an operator, a constant, a
condition, a keyword argument, a call that is left out. It is noticed if the tests of its module
fail, do not end in time, or cannot be collected. Mutants are drawn uniformly from all places in all
modules, by a digest of their names. Each is a line of DIR/MUTANTS.jsonl, written when its tests
have ended.
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from interact_jax import cli
from interact_jax.arguments import Parser
from interact_jax.places import write
from interact_jax.schema import InputError

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "train.py": "test_optim test_train test_bad_steps test_resume test_teachers "
    "test_models_of_a_run launch/test_step",
    "run_state.py": "test_optim test_teachers test_train test_bad_steps test_resume",
    "scoring.py": "test_scoring test_objectives models/test_sight launch/test_step",
    "objectives.py": "test_objectives test_scoring launch/test_step",
    "divergences.py": "test_divergences",
    "logits.py": "test_divergences test_scoring",
    "teachers.py": "test_teachers",
    "optim.py": "test_optim test_train test_resume",
    "checkpoint.py": "test_checkpoint test_resume test_models_of_a_run",
    "data/tree.py": "data/test_tree data/test_encode data/test_pack",
    "data/pack.py": "data/test_pack data/test_pipeline test_scoring",
    "data/encode.py": "data/test_encode data/test_thinking data/test_weighing data/test_recipes",
}
"""Module -> the files of its tests, quick ones first: they end at the first failure."""
TIMEOUT = 900.0  # seconds at least; a mutant may loop forever
PATIENCE = 5  # times what the tests of the sound module take: a busy machine is no failure
NOT_ENDED = "did not end"

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Pow: ast.Mult,
}
TWINS = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "any": "all",
    "all": "any",
    "zeros": "ones",
    "ones": "zeros",
    "zeros_like": "ones_like",
    "sorted": "list",
}
Record = dict[str, Any]
UNSEEN = {"InputError", "RunStopped", "ValueError", "KeyError", "Setting", "info", "warning"}
UNSEEN |= {"dataclass"}
"""Calls that only produce messages, or forbid (`frozen=True`) what nothing does: their arguments
are not mutated."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """The `number`-th way to change the node at a place in a module."""

    module: str
    line: int
    place: int  # the node's number in the walk over the module
    number: int
    told: str  # before -> after

    @property
    def name(self) -> str:
        return f"{self.module}:{self.line}:{self.place}.{self.number}"


# --------------------------------------------------------------------------------------- mutations


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may replace a node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield _replace_fields(node, ops=[COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield _replace_fields(node, op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _replace_fields(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp):
        yield node.operand  # no minus, no not, no complement
    elif isinstance(node, ast.IfExp):
        yield _replace_fields(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.If | ast.While):
        yield _replace_fields(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int | float) and math.isfinite(node.value):
        yield ast.Constant(node.value + 1)
    elif node.value is None:
        yield ast.Constant(0)


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name in TWINS:
        field = "attr" if isinstance(node.func, ast.Attribute) else "id"
        yield _replace_fields(node, func=_replace_fields(node.func, **{field: TWINS[name]}))
    if name == "where" and len(node.args) == 3:
        yield _replace_fields(node, args=[node.args[0], node.args[2], node.args[1]])
    if name == "stop_gradient":
        yield node.args[0]
    for index, keyword in enumerate(node.keywords):
        if keyword.arg:
            yield _replace_fields(
                node, keywords=[*node.keywords[:index], *node.keywords[index + 1 :]]
            )


def _replace_fields(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def mutable_nodes(tree: ast.AST) -> Iterator[tuple[int, Any]]:
    """The nodes of a module that compute something, numbered; no annotations, texts or settings."""
    for number, node in enumerate(ast.walk(tree)):
        for parent_field in ("annotation", "returns"):
            if getattr(node, parent_field, None) is not None:
                _mark(getattr(node, parent_field))
        silent = isinstance(node, ast.Call) and (
            getattr(node.func, "attr", getattr(node.func, "id", "")) in UNSEEN
        )
        if silent or isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Raise):
            _mark(node)
        if not getattr(node, "left_alone", False) and hasattr(node, "lineno"):
            yield number, node


def _mark(node: ast.AST) -> None:
    for each in ast.walk(node):
        each.left_alone = True  # type: ignore[attr-defined]


def all_mutants() -> list[Mutant]:
    """All mutants of every module in TESTS."""
    mutants = []
    for module in TESTS:
        for place, node in mutable_nodes(ast.parse((ROOT / "interact_jax" / module).read_text())):
            for number, changed in enumerate(changes(node)):
                mutants.append(Mutant(module, node.lineno, place, number, _describe(node, changed)))
    return mutants


def draw(count: int, seed: int) -> list[Mutant]:
    """`count` mutants at random; edits of one module do not change which of another are drawn."""

    def lot(mutant: Mutant) -> bytes:
        return hashlib.blake2b(f"{seed} {mutant.name}".encode()).digest()

    return sorted(sorted(all_mutants(), key=lot)[:count], key=lambda mutant: mutant.module)


def _describe(node: ast.AST, changed: ast.AST) -> str:
    if isinstance(node, ast.Call) and isinstance(changed, ast.Call):
        for keyword in node.keywords:
            if keyword not in changed.keywords:
                return f"{_shorten(node.func)}(...) without {_shorten(keyword)}"
    return f"{_shorten(node)}  ->  {_shorten(changed)}"


def _shorten(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 100 else text[:97] + "..."


def source_of(mutant: Mutant) -> str:
    """The source of the module with the change."""
    tree = ast.parse((ROOT / "interact_jax" / mutant.module).read_text())
    target = dict(mutable_nodes(tree))[mutant.place]
    (changed,) = [c for n, c in enumerate(changes(target)) if n == mutant.number]

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return changed if node is target else self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Replace().visit(tree)))


# --------------------------------------------------------------------------------------------- run


def digest_of(module: str) -> str:
    return hashlib.blake2b((ROOT / "interact_jax" / module).read_bytes(), digest_size=8).hexdigest()


class Bench:
    """A copy of the checkout in which one module at a time is broken."""

    def __init__(self, out: Path):
        self.file, self.copy = out / "MUTANTS.jsonl", out / "copy"
        self.compiled, self.times = out / "compiled", out / "times"

    def set_up(self) -> None:
        """Copy the current checkout; its tests have to be timed anew."""
        for directory in (self.copy, self.times):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in files.splitlines():
            if (ROOT / name).is_file():
                target = self.copy / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)

    def read_results(self) -> dict[str, Record]:
        """The results by name, without those of modules that have changed since."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        now = {module: digest_of(module) for module in TESTS}
        records = map(json.loads, lines)
        return {
            record["name"]: record
            for record in records
            if record.get("source") == now.get(record["module"])
        }

    def run_tests(self, module: str, limit: float | None = None) -> tuple[bool, str, float]:
        """Run the tests of a module in the copy, for `limit` seconds at most: (whether they pass,
        first failure, seconds). The first run of a module times its tests; later ones begin with
        the quick ones."""
        files = [f"tests/{name}.py" for name in TESTS[module].split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "--no-header"]
        command += ["-p", "benchmarks.slow_last", *files]
        environment = {**os.environ, "PYTHONPATH": str(self.copy)}
        environment["TEST_COMPILED"] = str(self.compiled)
        environment["TEST_TIMES"] = str(self.times / module.replace("/", "-"))
        began = time.monotonic()
        try:
            ended = subprocess.run(
                command,
                cwd=self.copy,
                env=environment,
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False, NOT_ENDED, time.monotonic() - began
        failed = re.search(
            r"^_+ (?:ERROR (?:collecting|at setup of) )?(\S+)", ended.stdout, re.MULTILINE
        )
        first = failed.group(1) if failed else ended.stdout[-200:] + ended.stderr[-200:]
        return ended.returncode == 0, first, time.monotonic() - began

    def run(self, mutant: Mutant, limit: float) -> Record:
        target = self.copy / "interact_jax" / mutant.module
        sound = target.read_text()
        target.write_text(source_of(mutant))
        try:
            passed, first, seconds = self.run_tests(mutant.module, limit)
        finally:
            target.write_text(sound)
        return {
            "name": mutant.name,
            **dataclasses.asdict(mutant),
            "source": digest_of(mutant.module),
            "noticed": not passed,
            "by": "" if passed else first,
            "seconds": round(seconds, 1),
        }


def table(records: list[Record]) -> str:
    """The numbers of noticed mutants by module, and the survivors."""
    lines = ["| module | mutants | noticed |", "| --- | --- | --- |"]
    for module in TESTS:
        of_module = [record for record in records if record["module"] == module]
        if of_module:
            noticed = sum(record["noticed"] for record in of_module)
            lines.append(f"| `{module}` | {len(of_module)} | {noticed} |")
    noticed = sum(record["noticed"] for record in records)
    share = f" ({noticed / len(records):.0%})" if records else ""
    lines.append(f"| all | {len(records)} | {noticed}{share} |")
    survivors = [record for record in records if not record["noticed"]]
    descriptions = [
        f"- `{record['module']}:{record['line']}`: `{record['told']}`" for record in survivors
    ]
    return "\n".join([*lines, "", "Survivors:", "", *descriptions])


def show(record: Record) -> None:
    word = "noticed" if record["noticed"] else "SURVIVED"
    print(f"{word:8} {record['name']}  {record['told']}  {record['seconds']:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Callable[..., object] = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="copy and MUTANTS.jsonl")
    add("--count", type=int, default=150, help="mutants to draw")
    add("--seed", type=int, default=0, help="seed of the draw")
    add("--only", default="", metavar="REGEX", help="only drawn mutants whose names match")
    add("--again", action="store_true", help="run once more what survived or did not end")
    add("--minutes", type=float, default=math.inf, help="start none after that")
    add("--table", action="store_true", help="print the results and exit")
    args = parser.parse_args(argv)
    bench = Bench(args.out)
    done = bench.read_results()
    if args.table:
        print(table(list(done.values())))
        return
    bench.set_up()
    end = time.monotonic() + 60 * args.minutes
    drawn = [m for m in draw(args.count, args.seed) if re.search(args.only, m.name)]
    in_doubt = {n for n, r in done.items() if not r["noticed"] or r["by"] == NOT_ENDED}
    again = in_doubt if args.again else set()
    waiting = [mutant for mutant in drawn if mutant.name not in done or mutant.name in again]
    limits = {}
    for module in dict.fromkeys(mutant.module for mutant in waiting):
        passed, first, seconds = bench.run_tests(module)
        if not passed:
            raise InputError(
                f"the tests of {module} fail without a mutant: {first}. Fix them first."
            )
        limits[module] = max(TIMEOUT, PATIENCE * seconds)
    for mutant in waiting:
        if time.monotonic() > end:
            break
        record = bench.run(mutant, limits[mutant.module])
        done[mutant.name] = record
        show(record)
        write(bench.file, "".join(json.dumps(one) + "\n" for one in done.values()))
    left = sum(mutant.name not in done for mutant in drawn)
    print(f"{len(drawn) - left} of the {len(drawn)} mutants drawn were tried, {left} are left")


if __name__ == "__main__":
    cli.run(main)
