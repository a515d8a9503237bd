"""What one node costs, and the price of multiplying by a weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from sparsefx.passes.costs.cost_table import Use
from sparsefx.passes.costs.symbolic_size import Amount, product
from sparsefx.passes.graphs.weight_sources import Scope, shape_of


@dataclass(frozen=True, slots=True)
class Priced:
    """What one node costs: uses of weights, and MACs that no mask can save."""

    uses: tuple[Use, ...] = ()
    fixed: Amount | None = None
    unpriced: tuple[tuple[str, str], ...] = ()  # (parameter, reason)

    def __add__(self, other: Priced) -> Priced:
        """Both prices together."""
        both = [part for part in (self.fixed, other.fixed) if part is not None]
        fixed = both[0].plus(both[1]) if len(both) == 2 else (*both, None)[0]
        return Priced(self.uses + other.uses, fixed, self.unpriced + other.unpriced)


def weighted(
    node: fx.Node, operand: object, op: str, uses: Amount, scope: Scope
) -> Priced:
    """Prices a product by one operand, whose entries are used ``uses`` times each."""
    name = scope.parameter(operand)
    shape = shape_of(operand)
    if name is None:
        # Still multiplied by, so the MACs are there; no mask of ours saves them.
        reason = f"reaches {op} ({node.name}) through {operand}, not as it is"
        blocked = tuple((found, reason) for found in scope.behind(operand))
        return Priced((), uses.times(product(shape, [""] * len(shape))), blocked)
    source = scope.source(operand)
    count = product(shape_of(source), [""] * len(shape_of(source)))
    copies = product(shape, [""] * len(shape))
    if copies.expr != count.expr:
        uses = uses.times(Amount(copies.expr / count.expr, copies.sizes))
    return Priced((Use(name, scope.module(node), op, uses.expr, dict(uses.sizes)),))
