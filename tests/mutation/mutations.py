"""Mutants of a source file: small faults that a test should notice.

One mutant replaces one piece of the text: a comparison, a sign, a constant, a
condition, `min` for `max`, two arguments changed round, a statement that goes. What
says nothing about behaviour stays: annotations, decorators, assertions, messages.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS: dict[type[ast.AST], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=",
    ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is", ast.In: "not in",
    ast.NotIn: "in", ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*",
    ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*", ast.BitOr: "&", ast.BitAnd: "|",
    ast.And: "or", ast.Or: "and",
}  # fmt: skip
PAIRS = (
    ("min", "max"), ("any", "all"), ("minimum", "maximum"), ("amin", "amax"),
    ("cummin", "cummax"), ("floor", "ceil"), ("argmin", "argmax"), ("sum", "prod"),
    ("clamp_min", "clamp_max"), ("ones", "zeros"), ("ones_like", "zeros_like"),
    ("nextafter", "copysign"), ("lexsort", "argsort"),
)  # fmt: skip
TWINS = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
# `zip(strict=True)` and `torch.sort(stable=True)`: on one machine they change nothing.
SILENT_KEYWORDS = {"strict", "stable", "stacklevel"}
SILENT = (ast.JoinedStr, ast.Assert, ast.Raise, ast.Import, ast.ImportFrom)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a file: `before`, at these offsets in UTF-8, becomes `after`."""

    file: str
    line: int
    last: int
    kind: str
    before: str
    after: str
    start: int
    text: str

    @property
    def key(self) -> str:
        """The same as long as the line is; what the list of equivalents names."""
        before, after = (" ".join(s.split()) for s in (self.before, self.after))
        return f"{self.file} | {self.text} | {before} -> {after}"

    def of(self, source: str) -> str:
        """The file with the change in it."""
        data, old = source.encode(), self.before.encode()
        assert data[self.start : self.start + len(old)] == old
        end = self.start + len(old)
        return (data[: self.start] + self.after.encode() + data[end:]).decode()


class Source:
    """A file's text, its lines' offsets, and the mutants of its nodes."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.data = file, source.encode()
        self.lines = source.splitlines()
        self.offsets = [0]
        for line in self.data.splitlines(keepends=True):
            self.offsets.append(self.offsets[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node stands, as offsets."""
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.offsets[node.lineno - 1] + node.col_offset,
            self.offsets[node.end_lineno - 1] + node.end_col_offset,
        )

    def piece(self, node: ast.AST) -> str:
        """The text of a node."""
        start, end = self.span(node)
        return self.data[start:end].decode()

    def mutant(self, start: int, end: int, kind: str, after: str) -> Mutant:
        """The change of the text between two offsets."""
        line = self.data.count(b"\n", 0, start) + 1
        last = self.data.count(b"\n", 0, end) + 1
        before = self.data[start:end].decode()
        text = self.lines[line - 1].strip()
        return Mutant(self.file, line, last, kind, before, after, start, text)

    def whole(self, node: ast.AST, kind: str, after: str) -> Mutant:
        """The change of all of a node."""
        return self.mutant(*self.span(node), kind, after)

    def between(self, left: ast.AST, right: ast.AST, kind: str, after: str) -> Mutant:
        """The change of the operator between two nodes, brackets kept."""
        start, end = self.span(left)[1], self.span(right)[0]
        text = self.data[start:end].decode()
        opening = len(text) - len(text.lstrip(") \n\t"))
        closing = len(text) - len(text.rstrip("( \n\t"))
        return self.mutant(start + opening, end - closing, kind, after)


def mutants(file: str, source: str) -> list[list[Mutant]]:
    """All mutants of a file, by the node that they change."""
    text = Source(file, source)
    nodes = (list(_of(text, node)) for node in _behaving(ast.parse(source)))
    return [found for found in nodes if found]


def _behaving(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes below that decide what the file does."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, SILENT):
                continue
            if isinstance(node, ast.keyword) and node.arg in SILENT_KEYWORDS:
                continue
            if isinstance(node, ast.Call) and "warn" in ast.unparse(node.func):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            yield node
            yield from _behaving(node)


def _of(text: Source, node: ast.AST) -> Iterator[Mutant]:
    match node:
        case ast.Compare():
            ends = [node.left, *node.comparators]
            for left, op, right in zip(ends, node.ops, ends[1:], strict=False):
                yield text.between(left, right, "comparison", OPERATORS[type(op)])
        case ast.BinOp() if type(node.op) in OPERATORS and not _is_text(node):
            after = OPERATORS[type(node.op)]
            yield text.between(node.left, node.right, "arithmetic", after)
        case ast.AugAssign() if type(node.op) in OPERATORS:
            after = f"{OPERATORS[type(node.op)]}="
            yield text.between(node.target, node.value, "arithmetic", after)
            yield text.whole(node, "statement gone", "pass")
        case ast.BoolOp():
            for left, right in zip(node.values, node.values[1:], strict=False):
                after = OPERATORS[type(node.op)]
                yield text.between(left, right, "logic", after)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield text.whole(node, "sign or not gone", f"({text.piece(operand)})")
        case ast.Constant(value=bool()):
            yield text.whole(node, "constant", str(not node.value))
        case ast.Constant(value=int() | float()):
            for other in (node.value + 1, node.value - 1):
                yield text.whole(node, "constant", repr(other))
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield text.whole(test, "condition", f"(not ({text.piece(test)}))")
        case ast.comprehension(ifs=[_, *_]):
            for test in node.ifs:
                yield text.whole(test, "condition", f"(not ({text.piece(test)}))")
        case ast.Continue():
            yield text.whole(node, "jump", "break")
        case ast.Break():
            yield text.whole(node, "jump", "continue")
        case ast.Name(id=name) if name in TWINS:
            yield text.whole(node, "twin", TWINS[name])
        case ast.Attribute(attr=name) if name in TWINS:
            end = text.span(node)[1]
            yield text.mutant(end - len(name), end, "twin", TWINS[name])
        case ast.Call(args=[first, second, *_]) if not _unordered(node):
            start, end = text.span(first)[0], text.span(second)[1]
            middle = text.data[text.span(first)[1] : text.span(second)[0]].decode()
            after = text.piece(second) + middle + text.piece(first)
            if not isinstance(first, ast.Starred) and not isinstance(
                second, ast.Starred | ast.GeneratorExp
            ):
                yield text.mutant(start, end, "arguments", after)
        case ast.Expr(value=ast.Call()):
            yield text.whole(node, "statement gone", "pass")
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield text.whole(node, "statement gone", "pass")


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


def _unordered(call: ast.Call) -> bool:
    """Whether the order of the first two arguments says nothing, or is trivial."""
    name = ast.unparse(call.func).rpartition(".")[2]
    trivial = {"isinstance", "issubclass", "getattr", "hasattr", "setattr", "cast"}
    return name in trivial or (name in TWINS and len(call.args) == 2)
