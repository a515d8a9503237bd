"""Costs made of other costs: ``0.7*macs + 0.3*params``, read without running it.

Only numbers, names, ``+ - * / **`` and parentheses are understood. What is read must be
linear in the costs, since a cost per kept weight is.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from sparsefx.errors import PolicyError

if TYPE_CHECKING:
    import sympy

# Sizes that a coefficient may be made of, beside those given as sizes=.
SIZES = ("batch", "tokens", "height", "width", "depth", "length", "heads", "positions")
_LONGEST = 500
_DEGREE = 8
_GREATEST = 1e100


def is_expression(text: str) -> bool:
    """Whether a cost is written as an expression, not as a name.

    Example:
        >>> is_expression("macs"), is_expression("macs + params")
        (False, True)
    """
    return not text.isidentifier()


def mentioned(text: str) -> frozenset[str]:
    """Names that an expression has; flops count as macs.

    Example:
        >>> sorted(mentioned("flops + 2*params"))
        ['macs', 'params']
    """
    nodes = ast.walk(ast.parse(text.strip(), mode="eval"))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return frozenset("macs" if name == "flops" else name for name in names)


def parse_expression(
    text: str, costs: Collection[str], sizes: Collection[str] = SIZES
) -> Mapping[str, sympy.Expr]:
    """Coefficients of a cost that is linear in others, by their names.

    Args:
        text: an expression in the names of costs and sizes.
        costs: names of costs; ``flops`` is read as ``2 * macs``.
        sizes: names that coefficients may use, such as ``batch``.

    Returns:
        A sympy expression in the sizes for each cost that occurs.

    Raises:
        PolicyError: the text is not such an expression, has a name that is not known,
            or a term that is not linear in the costs, constant, or negative; the
            message names it.

    Example:
        >>> parse_expression("2*macs + params/4", ("macs", "params"))
        {'macs': 2, 'params': 1/4}
        >>> print(parse_expression("flops / batch", ("macs", "flops"))["macs"])
        2/batch
    """
    import sympy

    expr = sympy.expand(_tree(text, {*costs, "flops", *sizes}))
    if "flops" not in sizes:
        expr = sympy.expand(expr.subs(sympy.Symbol("flops"), 2 * sympy.Symbol("macs")))
    symbols = {sympy.Symbol(name) for name in costs}
    found: dict[str, sympy.Expr] = {}
    for term in sympy.Add.make_args(expr):
        inside = term.free_symbols & symbols
        if not inside:
            raise PolicyError(
                f"cost {text!r} has the constant term {term}, which no mask changes; "
                "leave it out"
            )
        cost = next(iter(inside))
        rest = sympy.simplify(term / cost)
        if len(inside) > 1 or cost in rest.free_symbols:
            raise PolicyError(
                f"cost {text!r} is not linear in the costs: the term {term} is not a "
                "number times one cost; write a sum of such terms"
            )
        found[cost.name] = found.get(cost.name, sympy.Integer(0)) + rest
    for name, rest in found.items():
        if rest.is_negative or rest.is_zero or rest.is_finite is False:
            raise PolicyError(
                f"cost {text!r} has the coefficient {rest} of {name}; it must be above "
                "0: a budget limits what is spent"
            )
    return found


def _tree(text: str, names: Collection[str]) -> sympy.Expr:
    import sympy

    def refuse(what: str) -> PolicyError:
        return PolicyError(
            f"cost {text!r} has {what}; write numbers, names of costs and + - * / **, "
            "such as 0.7*macs + 0.3*params"
        )

    def read(node: ast.expr) -> tuple[sympy.Expr, int]:
        """An expression, and a bound of its degree."""
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as number):
                if not abs(number) < _GREATEST:
                    raise refuse("a number that is too large")
                return sympy.nsimplify(number) if isinstance(number, int) else (
                    sympy.Float(number)), 0  # fmt: skip
            case ast.Name(id=name):
                if name in names:
                    return sympy.Symbol(name), 1
                near = difflib.get_close_matches(name, sorted(names), n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise PolicyError(
                    f"cost {text!r} has the name {name!r}, which is not known{hint}; "
                    f"known: {', '.join(sorted(names))}"
                )
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                value, degree = read(operand)
                return (-value if isinstance(sign, ast.USub) else value), degree
            case ast.BinOp(left=left, op=operator, right=right):
                (a, high), (b, low) = read(left), read(right)
                match operator:
                    case ast.Add():
                        return bounded(a + b, max(high, low))
                    case ast.Sub():
                        return bounded(a - b, max(high, low))
                    case ast.Mult():
                        return bounded(a * b, high + low)
                    case ast.Div():
                        if b.is_zero:
                            raise refuse("a division by 0")
                        return bounded(a / b, high + low)
                    case ast.Pow():
                        if not (b.is_Integer and abs(int(b)) <= _DEGREE):
                            raise refuse(f"the power {b}, which is no small integer")
                        if a.is_zero and b < 0:
                            raise refuse("a division by 0")
                        return bounded(a**b, high * abs(int(b)))
            case _:
                pass
        raise refuse(f"{ast.unparse(node)!r}, which is not understood")

    def bounded(value: sympy.Expr, degree: int) -> tuple[sympy.Expr, int]:
        if degree > _DEGREE:
            raise refuse(f"a product of more than {_DEGREE} names")
        if value.is_number and not abs(value) < _GREATEST:
            raise refuse("a number that is too large")
        return value, degree

    if len(text) > _LONGEST:
        raise PolicyError(
            f"a cost of {len(text)} characters is too long; write at most {_LONGEST}"
        )
    syntax = "a mistake in its syntax"
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        # ValueError: of surrogates, and of null characters in some Pythons 3.11
        raise refuse(syntax) from None
    try:
        return read(tree.body)[0]
    except (UnicodeError, MemoryError, RecursionError):
        raise refuse(syntax) from None
