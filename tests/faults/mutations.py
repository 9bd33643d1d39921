"""Small faults in a module's source: another operator, constant or comparison, a statement or an option left out."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
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
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"min": "max", "sin": "cos", "floor": "ceil", "any": "all", "minimum": "maximum", "zeros": "ones"}
NAMES |= {after: before for before, after in NAMES.items()}


Alter = Callable[[list[ast.stmt], int], None]
"""Changes the statement at a place of a block."""


@dataclass(frozen=True)
class Mutation:
    """One fault: the lines of the statement that it is in, where that stands in the module's tree, and the change."""

    first: int
    last: int
    block: int
    place: int
    alter: Alter

    def planted(self, tree: ast.Module) -> tuple[str, str]:
        """Return the source of a module with the fault, and what that does."""
        changed = copy.deepcopy(tree)
        block = list(_blocks(changed))[self.block]
        target = block[self.place]
        before = ast.unparse(_header(target))
        self.alter(block, self.place)
        after = ast.unparse(_header(block[self.place]))
        return ast.unparse(changed), f"{before}  ->  {after}"


def mutations(tree: ast.Module) -> Iterator[Mutation]:
    """Return all faults that can be planted in a module."""
    for number, block in enumerate(_blocks(tree)):
        for place, statement in enumerate(block):
            if isinstance(statement, (ast.Import, ast.ImportFrom)) or _is_docstring(statement):
                continue
            first, last = _lines(statement)
            for alter in _changes(statement):
                yield Mutation(first, last, number, place, alter)


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Return every list of statements below a node, in a fixed order."""
    for child in ast.walk(node):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(child, name, None)
            if isinstance(block, list):
                yield block


def _header(statement: ast.stmt) -> ast.AST:
    """Return a statement without those inside it, to be shown."""
    if not hasattr(statement, "body"):
        return statement
    shown = copy.copy(statement)
    shown.body = [ast.Expr(ast.Constant(...))]
    for name in ("orelse", "finalbody"):
        if getattr(shown, name, None):
            setattr(shown, name, [])
    return shown


def _lines(statement: ast.stmt) -> tuple[int, int]:
    """Return the lines of a statement; of a function all its lines, for its defaults count wherever it runs."""
    if isinstance(statement, (ast.If, ast.While, ast.For, ast.With)):
        return statement.lineno, statement.body[0].lineno - 1 or statement.lineno
    return statement.lineno, statement.end_lineno or statement.lineno


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _changes(statement: ast.stmt) -> Iterator[Alter]:
    """Return what can go wrong in a statement, but not in those inside it."""
    droppable = isinstance(statement, (ast.AugAssign, ast.Raise, ast.Continue, ast.Break)) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    )
    if droppable:
        yield _drop
    if isinstance(statement, ast.Raise):
        return  # what an error says is no arithmetic
    for index, node in enumerate(_expressions(statement)):
        for change in _of_expression(node):
            yield partial(_alter_expression, index, change)


def _drop(block: list[ast.stmt], place: int) -> None:
    block[place] = ast.Pass()


def _alter_expression(index: int, change: Callable[[ast.AST], None], block: list[ast.stmt], place: int) -> None:
    change(list(_expressions(block[place]))[index])


_OTHERS = ("annotation", "returns", "decorator_list", "bases", "finalbody", "handlers")


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """Return the expressions of a statement's own, without annotations, texts and decorators."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        inside = _OTHERS if isinstance(node, (ast.IfExp, ast.Lambda)) else (*_OTHERS, "body", "orelse")
        for name, value in reversed(list(ast.iter_fields(node))):
            if name in inside:
                continue
            parts = value if isinstance(value, list) else [value]
            waiting += [p for p in reversed(parts) if isinstance(p, ast.AST) and not isinstance(p, ast.JoinedStr)]


def _of_expression(node: ast.AST) -> Iterator[Callable[[ast.AST], None]]:
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            yield lambda n: setattr(n, "op", SWAPS[type(n.op)]())
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield lambda n: n.ops.__setitem__(0, SWAPS[type(n.ops[0])]())
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield lambda n: setattr(n, "op", ast.UAdd() if isinstance(n.op, ast.USub) else _truth(n))
        case ast.Constant(value=bool()):
            yield lambda n: setattr(n, "value", not n.value)
        case ast.Constant(value=int() | float()):
            yield lambda n: setattr(n, "value", n.value + 1 if isinstance(n.value, int) else n.value * 1.5 or 1.0)
        case ast.Attribute(attr=name) if name in NAMES:
            yield lambda n: setattr(n, "attr", NAMES[n.attr])
        case ast.Name(id=name) if name in NAMES:
            yield lambda n: setattr(n, "id", NAMES[n.id])
        case ast.IfExp():
            yield lambda n: n.__dict__.update(body=n.orelse, orelse=n.body)
    if isinstance(node, ast.Call):
        for place, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                yield lambda n, place=place: n.keywords.pop(place)


def _truth(node: ast.UnaryOp) -> ast.Not:
    """Make ``not x`` say ``not not x``."""
    node.operand = ast.UnaryOp(ast.Not(), node.operand)
    return ast.Not()
