"""Every place in a source file where one operator, constant or call can be flipped."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
}
_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_CALLS = {"max": "min", "min": "max"}
_DROPPED = {"sqrt", "abs", "sign"}
# Sizes of blocks and pieces change no result that is not a promise of its own, tested where it is made.
_SKIPPED_NAMES = {"BLOCK_ELEMENTS", "PIECE_ELEMENTS", "LANES"}


@dataclass(frozen=True)
class Mutant:
    """One flip: the line it is on, what it does, and the whole changed source."""

    line: int
    change: str
    source: str


def mutants_of(source: str) -> Iterator[Mutant]:
    """All mutants of a module, in order of appearance."""
    tree = ast.parse(source)
    _strip(tree)
    inert = {id(part) for node in ast.walk(tree) if _is_inert(node) for part in ast.walk(node)}
    for place, original in enumerate(ast.walk(tree)):
        if id(original) in inert:
            continue
        mutated = copy.deepcopy(tree)
        node = list(ast.walk(mutated))[place]
        change = _flip(node)
        if change:
            yield Mutant(getattr(node, "lineno", 0), change, ast.unparse(ast.fix_missing_locations(mutated)))


def _strip(tree: ast.Module) -> None:
    """Take out the annotations of functions."""
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None and not isinstance(node, ast.AnnAssign):
                setattr(node, name, None)


def _is_inert(node: ast.AST) -> bool:
    """A size of blocks, pieces or lanes, or a flag of the compiler, which does not run here."""
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id in _SKIPPED_NAMES for target in node.targets)
    return isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant) and node.value.value is True


def _flip(node: ast.AST) -> str:
    """Change the node in place; what was done, or "" if there is nothing to flip."""
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        old, node.op = node.op, _BINARY[type(node.op)]()
        return f"{type(old).__name__} to {type(node.op).__name__}"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE:
        previous = node.ops[0]
        node.ops[0] = _COMPARE[type(previous)]()
        return f"{type(previous).__name__} to {type(node.ops[0]).__name__}"
    if isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return f"the other of and, or: {type(node.op).__name__}"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        kind, node.op = type(node.op).__name__, ast.UAdd() if isinstance(node.op, ast.USub) else node.op
        if kind == "Not":
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
        return f"without {kind}"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        old_value = node.value
        node.value = not old_value if isinstance(old_value, bool) else old_value + 1
        return f"{old_value!r} to {node.value!r}"
    if isinstance(node, ast.Call):
        return _flip_call(node)
    return ""


def _flip_call(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        old, node.func.id = node.func.id, _CALLS[node.func.id]
        return f"{old} to {node.func.id}"
    if isinstance(node.func, ast.Attribute) and node.func.attr in _DROPPED:
        old = node.func.attr
        node.func = ast.Lambda(ast.arguments([], [ast.arg("x")], None, [], [], None, []), ast.Name("x", ast.Load()))
        return f"without {old}"
    return ""
