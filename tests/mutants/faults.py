"""Enumerate the ways in which a statement can be wrong, draw some of them, and apply one to its file.

A fault is (function, statement before, statement after), all as normalized source text. Only the text of the mutated
expression changes in the file: comments and line numbers stay.
"""

from __future__ import annotations

import ast
import copy
import difflib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """One wrong statement."""

    room: str
    file: str  # relative to lrx/
    function: str  # the qualified name, "<locals>" left out
    kind: str
    before: str  # the statement, its body left out
    after: str

    @property
    def name(self) -> str:
        return f"{self.file}::{self.function}: {self.before} -> {self.after}"


class Edit(NamedTuple):
    """A fault as a change of the text: `old` is a node of the file's tree, `new` replaces its text."""

    kind: str
    old: ast.AST
    new: str
    after: str


COMPARE = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
OPPOSITE = {
    "minimum": "maximum",
    "min": "max",
    "any": "all",
    "floor": "ceil",
    "zeros": "ones",
    "zeros_like": "ones_like",
}
OPPOSITE |= {other: name for name, other in OPPOSITE.items()}
BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
SIMILAR = 0.75  # of two statements, as difflib measures it
TEXT_ONLY = ("__repr__", "__str__", "_repr_html_", "__rich__")


def head(statement: ast.stmt) -> ast.stmt:
    """Return the part of a statement that a fault may change: without its body, decorators and annotations."""
    bare = copy.copy(statement)
    for name in BODIES:
        if hasattr(bare, name):
            setattr(bare, name, [ast.Pass()] if name == "body" else [])
    if isinstance(bare, ast.FunctionDef):
        bare.decorator_list, bare.returns, bare.args = [], None, copy.deepcopy(bare.args)
        for argument in ast.walk(bare.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
    if isinstance(bare, ast.AnnAssign):
        bare.annotation = ast.Constant(value=...)
    return bare


def text(statement: ast.stmt) -> str:
    """Return the normalized text by which a statement is found again."""
    return ast.unparse(head(statement))


def statements(tree: ast.Module) -> Iterator[tuple[str, ast.stmt, list[ast.stmt]]]:
    """Yield (function, statement, the statements before it in the function) for each that may hold a fault."""

    def visit(
        node: Any, path: tuple[str, ...], earlier: list[ast.stmt]
    ) -> Iterator[tuple[str, ast.stmt, list[ast.stmt]]]:
        for name in BODIES:
            for child in getattr(node, name, []):
                if isinstance(child, ast.ExceptHandler):
                    yield from visit(child, path, earlier)
                elif isinstance(child, ast.ClassDef):
                    yield from visit(child, (*path, child.name), [])
                elif isinstance(child, ast.FunctionDef):
                    if child.name not in TEXT_ONLY and not any(
                        "overload" in ast.unparse(d) for d in child.decorator_list
                    ):
                        yield ".".join((*path, child.name)), child, []
                        yield from visit(child, (*path, child.name), [child])
                elif isinstance(child, ast.stmt) and path:
                    if not isinstance(node, ast.ClassDef) and not isinstance(
                        child, ast.Import | ast.ImportFrom | ast.Delete
                    ):
                        yield ".".join(path), child, earlier
                        earlier.append(child)
                    yield from visit(child, path, earlier)

    yield from visit(tree, (), [])


def expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    """Yield the expressions of a statement that may be wrong: no messages, no text, no annotations."""
    if isinstance(statement, ast.Raise | ast.Assert):
        return
    skipped: list[ast.AST | None] = [getattr(statement, "annotation", None), getattr(statement, "returns", None)]
    skipped += getattr(statement, "decorator_list", [])

    def visit(node: ast.AST) -> Iterator[ast.expr]:
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                contained = isinstance(node, ast.stmt | ast.ExceptHandler) and field in BODIES
                if not isinstance(child, ast.AST) or contained or child in skipped or field == "annotation":
                    continue
                if isinstance(child, ast.JoinedStr) or _is_text(child):
                    continue
                if isinstance(child, ast.expr):
                    yield child
                yield from visit(child)

    yield from visit(statement)


def _is_text(node: ast.AST) -> bool:
    """Return whether an expression only makes or shows a message."""
    if not isinstance(node, ast.Call):
        return False
    makes = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Constant | ast.JoinedStr)
    return makes or ast.unparse(node.func) in ("print", "warnings.warn")


def edits(statement: ast.stmt, earlier: list[ast.stmt]) -> Iterator[Edit]:
    """Yield every fault of one statement, in a fixed order."""
    bare = text(statement)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return

    def edit(kind: str, node: ast.AST, new: ast.AST) -> Iterator[Edit]:
        replaced = (
            f"({ast.unparse(new)})"
            if isinstance(new, ast.expr) and not isinstance(new, ast.Constant)
            else ast.unparse(new)
        )
        after = text(_replace(statement, node, new))
        if after != bare:
            yield Edit(kind, node, replaced, after)

    def changed(node: Any, **fields: Any) -> Any:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    bound = {name.id for other in earlier for name in ast.walk(head(other)) if isinstance(name, ast.Name)}
    bound |= {argument.arg for other in earlier for argument in ast.walk(head(other)) if isinstance(argument, ast.arg)}
    again = isinstance(statement, ast.Assign) and all(
        isinstance(t, ast.Name) and t.id in bound for t in statement.targets
    )
    call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and not _is_text(statement.value)
    if call or again or isinstance(statement, ast.AugAssign | ast.Raise | ast.Continue | ast.Break):
        yield Edit("removed statement", statement, "pass", "pass")
    if isinstance(statement, ast.If | ast.While):
        yield from edit("negated condition", statement.test, ast.UnaryOp(ast.Not(), statement.test))
    for node in expressions(statement):
        if isinstance(node, ast.Compare):
            for place, operator in enumerate(node.ops):
                for other in COMPARE[type(operator)]:
                    ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                    yield from edit("comparison", node, changed(node, ops=ops))
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            if not any(
                isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (node.left, node.right)
            ):
                yield from edit("arithmetic", node, changed(node, op=ARITHMETIC[type(node.op)]()))
        elif isinstance(node, ast.BoolOp):
            yield from edit("logic", node, changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And()))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield from edit("removed operator", node, node.operand)
        elif isinstance(node, ast.IfExp):
            yield from edit("swapped branches", node, changed(node, body=node.orelse, orelse=node.body))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield from edit("constant", node, ast.Constant(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            yield from edit("constant", node, ast.Constant(node.value + 1))
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield from edit("constant", node, ast.Constant(node.value * 2.0 if node.value else 1.0))
        elif isinstance(node, ast.Call):
            yield from _calls(node, edit, changed)


def _calls(node: ast.Call, edit: Any, changed: Any) -> Iterator[Edit]:
    """Yield the faults of a call: swapped arguments, a dropped keyword, the opposite function, no call."""
    plain = [not isinstance(argument, ast.Starred) for argument in node.args]
    for place in range(len(node.args) - 1):
        if plain[place] and plain[place + 1]:
            args = [*node.args]
            args[place], args[place + 1] = args[place + 1], args[place]
            yield from edit("swapped arguments", node, changed(node, args=args))
    for keyword in node.keywords:
        if keyword.arg is not None:
            yield from edit(
                "dropped keyword", node, changed(node, keywords=[k for k in node.keywords if k is not keyword])
            )
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in OPPOSITE:
        field = "attr" if isinstance(node.func, ast.Attribute) else "id"
        yield from edit("opposite function", node, changed(node, func=changed(node.func, **{field: OPPOSITE[name]})))
    if len(node.args) >= 1 and plain[0] and not node.keywords and not (len(node.args) > 1 and name == "isinstance"):
        yield from edit("removed call", node, node.args[0])


def _replace(statement: ast.stmt, old: ast.AST, new: ast.AST) -> ast.stmt:
    """Return a copy of the statement in which one node is replaced."""

    def rebuild(node: Any) -> Any:
        if node is old:
            return new
        if not isinstance(node, ast.AST):
            return [rebuild(child) for child in node] if isinstance(node, list) else node
        copied = copy.copy(node)
        for field, value in ast.iter_fields(node):
            if not (isinstance(node, ast.stmt) and field in BODIES):
                setattr(copied, field, rebuild(value))
        return copied

    return rebuild(statement)


def faults_of(room: str, file: str, source: str) -> list[Fault]:
    """Return every fault that can be drawn in one file, each once."""
    found = [
        Fault(room, file, function, edit.kind, text(statement), edit.after)
        for function, statement, earlier in statements(ast.parse(source))
        for edit in edits(statement, earlier)
    ]
    return list(dict.fromkeys(found))


def draw(room: str, sources: dict[str, str], number: int, rng: random.Random, taken: set[Fault]) -> list[Fault]:
    """Draw faults in the files of a room: file after file, a kind, then a function, then one of its statements."""
    by_file = {
        file: [fault for fault in faults_of(room, file, source) if fault not in taken]
        for file, source in sources.items()
    }
    files = sorted(file for file, found in by_file.items() if found)
    rng.shuffle(files)
    drawn: list[Fault] = []
    kinds_drawn: list[str] = []
    while len(drawn) < number and files:
        file = files[len(drawn) % len(files)]
        left = [fault for fault in by_file[file] if fault not in drawn]
        if not left:
            files.remove(file)
            continue
        kinds = sorted({fault.kind for fault in left})
        rng.shuffle(kinds)
        kind = min(kinds, key=kinds_drawn.count)
        functions = sorted({fault.function for fault in left if fault.kind == kind})
        function = rng.choice(functions)
        fault = rng.choice([fault for fault in left if fault.kind == kind and fault.function == function])
        drawn.append(fault)
        kinds_drawn.append(fault.kind)
    return drawn


def find(fault: Fault, sources: dict[str, str]) -> tuple[str, str] | None:
    """Return (file, mutated source), or None if the statement is gone.

    Look for the function in its file, then in every file by its name, then for the statement if it is unique.
    """

    def search(files: list[str], named: bool) -> list[tuple[str, str]]:
        found = []
        for file in files:
            for function, statement, earlier in statements(ast.parse(sources[file])):
                same = function == fault.function or (
                    len(files) > 1 and function.split(".")[-1] == fault.function.split(".")[-1]
                )
                if text(statement) == fault.before and (same or not named):
                    matching = [
                        edit
                        for edit in edits(statement, earlier)
                        if edit.after == fault.after and edit.kind == fault.kind
                    ]
                    found += [(file, _apply(sources[file], edit)) for edit in matching[:1]]
        return found

    here = [fault.file] if fault.file in sources else []
    others = [file for file in sources if file != fault.file]
    for files, named in ((here, True), (others, True), (here, False), (others, False)):
        found = search(files, named)
        if found and (named or len(found) == 1):
            return found[0]
    return _find_similar(fault, sources)


def _find_similar(fault: Fault, sources: dict[str, str]) -> tuple[str, str] | None:
    """Find the same kind of change in the most similar statement of a function of this name: names may have changed."""
    best, least = None, SIMILAR
    for file, source in sources.items():
        for function, statement, earlier in statements(ast.parse(source)):
            if function.split(".")[-2:] != fault.function.split(".")[-2:]:
                continue
            before = difflib.SequenceMatcher(None, text(statement), fault.before).ratio()
            for edit in edits(statement, earlier) if before > least else ():
                after = difflib.SequenceMatcher(None, edit.after, fault.after).ratio()
                if edit.kind == fault.kind and min(before, after) > least:
                    best, least = (file, _apply(source, edit)), min(before, after)
    return best


def _apply(source: str, edit: Edit) -> str:
    """Replace the text of one node."""
    lines = source.splitlines(keepends=True)
    old: Any = edit.old
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    data = source.encode()
    begin, end = starts[old.lineno - 1] + old.col_offset, starts[old.end_lineno - 1] + old.end_col_offset
    mutated = (data[:begin] + edit.new.encode() + data[end:]).decode()
    ast.parse(mutated)
    return mutated


def sources_of(tree: Path) -> dict[str, str]:
    """Return the source of each file of lrx, by its path below lrx/."""
    return {str(path.relative_to(tree / "lrx")): path.read_text() for path in sorted((tree / "lrx").rglob("*.py"))}
