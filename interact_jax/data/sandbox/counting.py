"""Jinja's compiler, which also writes calls that count the work into the code it makes.

    {% for m in messages %}{{ m.role + m.content }}{% endfor %}

becomes, with what was added to Jinja's own in capitals:

    for m in messages:
        ENVIRONMENT.SPEND(18)
        yield ENVIRONMENT.SHOWN(ENVIRONMENT.SIZED(getattr(m, "role") + getattr(m, "content")))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators

from interact_jax.data.sandbox.bounds import CALL

PARTS = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
"""What has a body that may run more than once."""
TOGETHER = 8  # terms of a sum that are added before the result is counted


class Counting(CodeGenerator):
    """Jinja's compiler, which also writes calls of methods of `environment.Sandbox`."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        self._costs = {id(part.body): _cost(part.body) for part in (node, *node.find_all(PARTS))}
        super().visit_Template(node, frame)

    def blockvisit(self, nodes: Sequence[nodes.Node], frame: Frame) -> None:
        if cost := self._costs.get(id(nodes)):
            self.writeline(f"environment.spend({cost})")
        super().blockvisit(nodes, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        if node.test is not None:  # what it leaves out does not reach the body
            count = nodes.EnvironmentAttribute("tried", lineno=node.lineno)
            cost = nodes.Const(CALL + _cost([node.test]))
            node.test = nodes.And(nodes.Call(count, [cost], [], None, None), node.test)
        super().visit_For(node, frame)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.shown(")  # where Jinja writes "str("

    def visit_Add(self, node: nodes.Add, frame: Frame) -> None:
        terms: list[nodes.Expr] = []
        left: nodes.Expr = node
        while isinstance(left, nodes.Add):
            terms.append(left.right)
            left = left.left
        terms = [left, *reversed(terms)]
        ends = {*range(TOGETHER, len(terms) - 1, TOGETHER), len(terms) - 1}
        self.write("environment.sized(" * len(ends))
        for i, term in enumerate(terms):
            self.write(" + " if i else "")
            self.visit(term, frame)
            self.write(")" if i in ends else "")

    def visit_Sub(self, node: nodes.Sub, frame: Frame) -> None:
        self._called("sized", frame, node, visit=super().visit_Sub)

    def visit_Mul(self, node: nodes.Mul, frame: Frame) -> None:
        self._called("times", frame, node.left, node.right)

    def visit_Pow(self, node: nodes.Pow, frame: Frame) -> None:
        self._called("power", frame, node.left, node.right)

    def visit_Mod(self, node: nodes.Mod, frame: Frame) -> None:
        self._called("modulo", frame, node.left, node.right)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self._called("joined", frame, *node.nodes)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        right, operator = node.ops[0].expr, node.ops[0].op
        if len(node.ops) == 1 and operator in ("in", "notin"):
            if isinstance(right, nodes.List | nodes.Tuple) and _small(right):
                super().visit_Compare(node, frame)
            else:
                self.write("(not " if operator == "notin" else "(")
                self._called("member", frame, node.expr, right)
                self.write(")")
        elif len(node.ops) == 1 and (_small(node.expr) or _small(right)):
            super().visit_Compare(node, frame)
        elif any(op.op in ("in", "notin") for op in node.ops):
            self.fail(
                "`in` cannot be part of a chain of comparisons in a chat template", node.lineno
            )
        else:
            self.write("(")
            self._called("weighed", frame, node.expr)
            for op in node.ops:
                self.write(f" {operators[op.op]} ")
                self._called("weighed", frame, op.expr)
            self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self._called("sized", frame, node, visit=super().visit_Getitem)
        elif _small(node.arg):
            super().visit_Getitem(node, frame)
        else:
            self.write("environment.getitem(")
            self.visit(node.node, frame)
            self.write(", ")
            self._called("weighed", frame, node.arg)
            self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for item in node.items:
            self._called("weighed", frame, item.key)
            self.write(": ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("}")

    def visit_ScopedEvalContextModifier(
        self, node: nodes.ScopedEvalContextModifier, frame: Frame
    ) -> None:
        self.fail("{% autoescape %} is for HTML, not for chats", node.lineno)

    def _called(
        self,
        name: str,
        frame: Frame,
        *arguments: nodes.Node,
        visit: Callable[..., None] | None = None,
    ) -> None:
        """Write a call of a method of the sandbox."""
        self.write(f"environment.{name}(")
        for argument in arguments:
            (visit or self.visit)(argument, frame)
            self.write(", ")
        self.write(")")


def _cost(body: Sequence[nodes.Node]) -> int:
    """Units of one pass through these nodes, less what depends on the values."""
    found = [inner for node in body for inner in (node, *node.find_all(nodes.Node))]
    texts = (getattr(node, "data", None) or getattr(node, "value", None) for node in found)
    return 10 + len(found) + sum(len(text) for text in texts if isinstance(text, str)) // 16


def _small(node: nodes.Node) -> bool:
    """Whether a value is small for certain: a part of the template's text, or true or false."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(map(_small, node.items))
    return isinstance(node, nodes.Const | nodes.Compare | nodes.Not | nodes.Test)
