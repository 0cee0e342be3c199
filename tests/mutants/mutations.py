"""The careless mutations of a Python file: where each can be made, and the text that it makes of the file.

A mutation replaces one node's text and leaves the rest as it is. Annotations, docstrings, strings, assertions and
blocks for type checkers are left alone: no test can tell a change in them, or it has nothing to do with behaviour.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Mutation(NamedTuple):
    """One change of one file: of which class, where it begins and ends, and what stands there instead."""

    kind: str
    line: int
    statement: int  # the line on which the statement begins
    start: int  # in bytes from the beginning of the file
    end: int
    new: str

    def apply(self, text: str) -> str:
        raw = text.encode()
        return (raw[: self.start] + self.new.encode() + raw[self.end :]).decode()


Functions = list[tuple[int, int, str]]
"""The first and the last line of each function of a file, and its qualified name; outer ones first."""


def functions_of(text: str) -> Functions:
    """Return the functions of a file."""
    return list(_functions(ast.parse(text), ""))


def _functions(node: ast.AST, outer: str) -> Iterator[tuple[int, int, str]]:
    for child in ast.iter_child_nodes(node):
        name = outer
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{outer}.{child.name}" if outer else child.name
            if not isinstance(child, ast.ClassDef):
                yield child.body[0].lineno, child.end_lineno or child.lineno, name
        yield from _functions(child, name)


def function_at(functions: Functions, line: int) -> str | None:
    """Return the name of the innermost function whose body has a line, or None outside of all."""
    return next((name for first, last, name in reversed(functions) if first <= line <= last), None)


COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
# Without these the file cannot be imported, or the change says nothing to Python.
KEPT_DECORATORS = {"overload", "override", "final", "abstractmethod", "runtime_checkable", "property", "setter"}
# With their arguments swapped these do the same, or fail at once.
UNORDERED_CALLS = {"isinstance", "issubclass", "getattr", "setattr", "hasattr", "cast", "max", "min", "suppress"}
UNSEEN_KEYWORDS = {"slots", "strict", "maxsize"}  # memory, assertions, caches


def mutations_of(text: str) -> list[Mutation]:
    """Return all mutations of a file, in its order."""
    return list(_Finder(text).find())


class _Finder:
    def __init__(self, text: str) -> None:
        self._raw = text.encode()
        self._tree = ast.parse(text)
        lengths = [len(line) for line in self._raw.splitlines(keepends=True)]
        self._begins = [sum(lengths[:number]) for number in range(len(lengths) + 1)]
        self._statement = 0

    def find(self) -> Iterator[Mutation]:
        for statement in self._tree.body:
            yield from self._visit(statement)

    def _visit(self, node: ast.AST) -> Iterator[Mutation]:
        if isinstance(node, ast.stmt):
            if _is_for_readers(node):
                return
            self._statement = node.lineno
        for kind, rule in RULES.items():
            for new in rule(node):
                yield self._mutation(kind, node, new)
        if isinstance(node, ast.If | ast.IfExp | ast.While) and isinstance(
            node.test, ast.Name | ast.Attribute | ast.Call
        ):
            yield self._mutation("condition", node.test, f"not {ast.unparse(node.test)}")
        yield from self._removed_decorators(node)
        for child in _changeable(node):
            statement = self._statement
            yield from self._visit(child)
            self._statement = statement

    def _removed_decorators(self, node: ast.AST) -> Iterator[Mutation]:
        for decorator in getattr(node, "decorator_list", []):
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called).split(".")[-1] not in KEPT_DECORATORS:
                start, end = self._span(decorator)
                start = self._raw.rindex(b"@", 0, start)
                yield Mutation("removed decorator", decorator.lineno, node.body[0].lineno, start, end, "")  # type: ignore[attr-defined]

    def _mutation(self, kind: str, node: ast.AST, new: ast.AST | str) -> Mutation:
        start, end = self._span(node)
        text = new if isinstance(new, str) else ast.unparse(new)
        if isinstance(new, ast.BoolOp):
            text = f"({text})"
        return Mutation(kind, self._raw.count(b"\n", 0, start) + 1, self._statement, start, end, text)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._begins[node.lineno - 1] + node.col_offset, self._begins[node.end_lineno - 1] + node.end_col_offset


def _changeable(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node in which a change has to do with behaviour."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg in UNSEEN_KEYWORDS):
        return  # Python 3.11 does not know where the parts of an f-string are
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            yield from (
                child for child in (value if isinstance(value, list) else [value]) if isinstance(child, ast.AST)
            )


def _is_for_readers(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
    return False


def _compared(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[place] = COMPARISONS[type(operator)]()
            yield changed


def _reckoned(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
        if not any(isinstance(part, ast.JoinedStr | ast.List | ast.Tuple) or _is_string(part) for part in parts):
            changed = copy.copy(node)
            changed.op = ARITHMETIC[type(node.op)]()
            yield changed


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _joined(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(op=ast.Or() if isinstance(node.op, ast.And) else ast.And(), values=node.values)


def _negated(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand


def _off_by_one(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield str(not node.value)
        elif isinstance(node.value, int | float):
            yield repr(node.value + 1)


def _returned(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "return None"


def _deleted(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.AugAssign() | ast.Expr() | ast.Delete():
            yield "pass"
        case ast.Raise() | ast.Continue() | ast.Break() | ast.Return(value=None):
            yield "pass"
        case ast.If(body=[ast.Return() | ast.Raise() | ast.Continue()], orelse=[]):
            yield "pass"


def _swapped(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, ast.Call) or any(isinstance(argument, ast.Starred) for argument in node.args):
        return
    if isinstance(node.func, ast.Name) and node.func.id in UNORDERED_CALLS:
        return
    for place in range(len(node.args) - 1):
        changed = copy.copy(node)
        changed.args = [*node.args]
        changed.args[place : place + 2] = node.args[place + 1], node.args[place]
        if ast.dump(changed) != ast.dump(node):
            yield changed


def _not_awaited(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Await):
        yield node.value


RULES: dict[str, Callable[[ast.AST], Iterator[ast.AST | str]]] = {
    "comparison": _compared,
    "arithmetic": _reckoned,
    "and/or": _joined,
    "not": _negated,
    "constant": _off_by_one,
    "return None": _returned,
    "deleted": _deleted,
    "swapped arguments": _swapped,
    "not awaited": _not_awaited,
}
