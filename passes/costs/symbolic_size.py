"""Symbolic sizes: expressions in names a person can read, bound to an example."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from sparsefx.torch_internals import hint

if TYPE_CHECKING:  # sympy loads for as long as a fifth of torch: only when used
    import sympy


def integer(value: int) -> sympy.Integer:
    """A whole number as an expression.

    Example:
        >>> integer(7) + 1
        8
    """
    import sympy

    return sympy.Integer(value)


@dataclass(frozen=True, slots=True)
class Amount:
    """An expression in readable symbols, and the numbers the example gives them.

    Example:
        >>> print(Amount.of(8, "batch").times(Amount.of(5, "tokens")).expr)
        batch*tokens
    """

    expr: sympy.Expr = field(default_factory=lambda: integer(1))
    sizes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, size: int | torch.SymInt, name: str = "") -> Amount:
        """One size: symbolic sizes in terms of ``batch``, others under ``name``.

        Args:
            size: a tensor's size; a symbolic one is read as ``a * batch + b``.
            name: the symbol of a size that is a plain number; "" keeps the number.
        """
        import sympy

        if isinstance(size, torch.SymInt):
            expr = size.node.expr
            symbols = tuple(expr.free_symbols)
            if len(symbols) == 1 and expr.is_polynomial(*symbols):
                poly = sympy.Poly(expr, *symbols)
                if poly.degree() == 1:
                    slope, offset = poly.coeff_monomial(symbols[0]), poly.eval(0)
                    batch = int((hint(size) - offset) / slope)
                    named = slope * sympy.Symbol("batch") + offset
                    return cls(named, {"batch": batch})
            name = name if symbols else ""
        if not name:
            return cls(integer(hint(size)))
        return cls(sympy.Symbol(name), {name: hint(size)})

    def _join(
        self, other: Amount, combine: Callable[[sympy.Expr, sympy.Expr], sympy.Expr]
    ) -> Amount:
        import sympy

        sizes, renamed = dict(self.sizes), {}
        for name, size in other.sizes.items():
            free, count = name, 1
            while sizes.get(free, size) != size:
                count += 1
                free = f"{name}_{count}"
            sizes[free] = size
            renamed[sympy.Symbol(name)] = sympy.Symbol(free)
        expr = other.expr.subs(renamed, simultaneous=True)
        return Amount(combine(self.expr, expr), sizes)

    def times(self, other: Amount) -> Amount:
        """The product; a symbol that means another number here is numbered."""
        return self._join(other, operator.mul)

    def plus(self, other: Amount) -> Amount:
        """The sum; a symbol that means another number here is numbered.

        Example:
            >>> total = Amount.of(5, "tokens").plus(Amount.of(7, "tokens"))
            >>> print(total.expr, total.number())
            tokens + tokens_2 12
        """
        return self._join(other, operator.add)

    def number(self, sizes: Mapping[str, int] | None = None) -> int:
        """The value at the example's sizes, or at those given instead."""
        return int(self.expr.subs({**self.sizes, **(sizes or {})}))


def product(sizes: Iterable[int | torch.SymInt], names: Iterable[str]) -> Amount:
    """Product of sizes, each under its name.

    Example:
        >>> print(product((2, 3), ("batch", "tokens")).expr)
        batch*tokens
    """
    parts = (Amount.of(size, name) for size, name in zip(sizes, names, strict=True))
    return functools.reduce(Amount.times, parts, Amount())
