"""What a forward call costs: linear in the kept weights, symbolic in the sizes.

Conventions, those of the field (ResNet-50 = 4.09 GMACs, ViT-B/16 = 17.56 GMACs):

- one MAC is one multiplication with its addition; ``flops = 2 * macs``;
- linear maps, convolutions and products of activations count, attention in full
  even when it is causal;
- bias additions, norms, activations, softmax, pooling and embedding look-ups count
  0 MACs; the parameters and bytes they own still count, as fixed.

Everything is per forward call, at the sizes of the example inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from sparsefx.errors import PolicyError
from sparsefx.passes.costs.symbolic_size import Amount, integer, product
from sparsefx.reports.html_page import html_line, html_table
from sparsefx.reports.text_table import percent, shape_text, share, text_table
from sparsefx.settings.budget import COSTS

if TYPE_CHECKING:
    import sympy

HEADER = ("name", "op", "shape", "MACs", "number", "share", "kind")
# Names of the sizes of one batch entry, by how many there are.
TOKEN_NAMES = {1: ("tokens",), 2: ("height", "width"), 3: ("depth", "height", "width")}
SPATIAL_NAMES = {**TOKEN_NAMES, 1: ("length",)}


def linear_uses(
    leading: Sequence[int | torch.SymInt], symbolic: bool = False
) -> Amount:
    """Uses of each weight of a linear map: the product of its input's leading sizes.

    Args:
        leading: sizes of the input without its features.
        symbolic: the batch is a symbolic size of the graph, so that a plain number
            is never the batch; otherwise the first size is.

    Example:
        >>> print(linear_uses((8, 197)).expr, linear_uses((8, 14, 14)).expr)
        batch*tokens batch*height*width
    """
    plain = [i for i, size in enumerate(leading) if not isinstance(size, torch.SymInt)]
    names = ["batch"] * len(leading)
    if not symbolic and plain and plain[0] == 0:
        plain = plain[1:]
    labels = TOKEN_NAMES.get(len(plain), ("positions",) * len(plain))
    for i, label in zip(plain, labels, strict=True):
        names[i] = label
    return product(leading, names)


def conv_uses(
    batch: Sequence[int | torch.SymInt],
    spatial: Sequence[int | torch.SymInt],
    symbolic: bool = False,
) -> Amount:
    """Uses of each weight of a convolution: once per sample and position.

    Groups, stride, padding and dilation only matter through the positions.

    Args:
        batch: the batch size, or nothing for an unbatched input.
        spatial: output sizes; input sizes for a transposed convolution.
        symbolic: as in `linear_uses`.

    Example:
        >>> uses = conv_uses((8,), (112, 112))
        >>> print(uses.expr, uses.number())
        batch*height*width 100352
    """
    names = ("positions" if symbolic else "batch",) * len(batch)
    return product((*batch, *spatial), (*names, *SPATIAL_NAMES[len(spatial)]))


def attention_macs(
    leading: Sequence[int | torch.SymInt],
    tokens: int | torch.SymInt,
    tokens_kv: int | torch.SymInt,
    dim_qk: int,
    dim_v: int,
    symbolic: bool = False,
) -> Amount:
    """MACs of ``softmax(q k^T) v``: ``positions * tokens * tokens_kv * (qk + v)``.

    Args:
        leading: sizes before the tokens: (batch, heads) of rank 4 inputs.
        tokens: number of queries.
        tokens_kv: number of keys.
        dim_qk: features of a query, per head.
        dim_v: features of a value, per head.
        symbolic: as in `linear_uses`.

    Example:
        >>> macs = attention_macs((1, 12), 197, 197, 64, 64)
        >>> print(macs.expr, macs.number())
        128*batch*heads*tokens*tokens_kv 59610624
    """
    names = [*batch_names(len(leading), symbolic), "tokens", "tokens_kv", ""]
    return product((*leading, tokens, tokens_kv, dim_qk + dim_v), names)


def batch_names(count: int, symbolic: bool = False) -> tuple[str, ...]:
    """Names of the sizes that a product of activations is repeated over.

    Example:
        >>> batch_names(2)
        ('batch', 'heads')
    """
    first = "positions" if symbolic else "batch"
    return (first, "heads", *("positions",) * count)[:count]


@dataclass(frozen=True, slots=True)
class Use:
    """One place where a weight is used.

    Attributes:
        parameter: the weight's name.
        module: path of the module that runs the operation.
        op: ``"linear"``, ``"conv2d"``, ``"conv_transpose2d"``, ``"embedding"``,
            ``"attention_in"``, ``"attention_out"``, ``"matmul"``, ``"einsum"``,
            ``"bilinear"``.
        macs_per_weight: MACs that one kept weight costs here.
        sizes: the example's numbers for its symbols.
    """

    parameter: str
    module: str
    op: str
    macs_per_weight: sympy.Expr
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CostRow:
    """What one parameter, or one product of activations, costs.

    Attributes:
        name: the parameter's name, or the graph node's for a product of activations.
        module: path of the module that owns the parameter or runs the product.
        op: what consumes it; ``"parameter"`` where nothing multiplies by it.
        shape: the parameter's shape, or the product's result.
        macs: all its MACs per forward call, if nothing is dropped.
        params: number of parameters.
        bytes: their storage.
        maskable: whether weights can be dropped, and their cost with them.
        sizes: the example's numbers for the symbols of ``macs``.
        reason: why it is not maskable, or what is not known of it.
    """

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    macs: sympy.Expr
    params: int
    bytes: int
    maskable: bool
    sizes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    reason: str = ""

    def number(self, cost: str = "macs", sizes: Mapping[str, int] | None = None) -> int:
        """The cost as a number.

        Args:
            cost: ``"macs"``, ``"flops"``, ``"params"`` or ``"bytes"``.
            sizes: other numbers for the symbols than the example's.
        """
        if cost in ("macs", "flops"):
            macs = Amount(self.macs, self.sizes).number(sizes)
            return macs if cost == "macs" else 2 * macs
        return {"params": self.params, "bytes": self.bytes}[cost]

    def per_weight(self) -> dict[str, sympy.Expr]:
        """What each kept weight costs, by cost name; `Site.costs`."""
        count = max(math.prod(self.shape), 1)
        return {
            "macs": self.macs / count,
            "params": integer(1),
            "bytes": integer(self.bytes) / count,
        }


@dataclass(frozen=True, slots=True)
class CostTable:
    """The cost of a model, one row a parameter and one a product of activations.

    Example:
        >>> import sympy
        >>> row = CostRow("fc.weight", "fc", "linear", (3, 4), 12 * sympy.Symbol(
        ...     "batch"), 12, 48, True, {"batch": 2})
        >>> table = CostTable((row,))
        >>> table.totals()["macs"]
        {'maskable': 24, 'fixed': 0, 'total': 24}
        >>> print(table["fc.weight"].per_weight()["macs"])
        batch
    """

    rows: tuple[CostRow, ...]

    def __getitem__(self, name: str) -> CostRow:
        """The row of a parameter, or of a product of activations, by its name."""
        for row in self:
            if row.name == name:
                return row
        raise KeyError(name)

    def __iter__(self) -> Iterator[CostRow]:
        """Rows: parameters in the model's order, then products."""
        return iter(self.rows)

    def at(self, sizes: Mapping[str, int]) -> CostTable:
        """The table at other sizes than the example's.

        Raises:
            PolicyError: no cost depends on such a size.
        """
        known = dict.fromkeys(name for row in self for name in row.sizes)
        for name in sizes:
            if name not in known:
                raise PolicyError(
                    f"sizes has {name!r}, which no cost depends on; known: "
                    f"{', '.join(known) or 'none, without example inputs'}"
                )
        rows = [
            replace(row, sizes={n: sizes.get(n, size) for n, size in row.sizes.items()})
            for row in self
        ]
        return CostTable(tuple(rows))

    def totals(self) -> dict[str, dict[str, int]]:
        """For each cost, what can be dropped, what cannot, and their sum."""
        totals = {}
        for cost in COSTS:
            total = sum(row.number(cost) for row in self)
            maskable = sum(row.number(cost) for row in self if row.maskable)
            fixed = total - maskable
            totals[cost] = {"maskable": maskable, "fixed": fixed, "total": total}
        return totals

    def to_dict(self) -> dict[str, Any]:
        """Plain ints, strings and lists, ready for JSON."""
        rows = [
            {
                "name": row.name,
                "module": row.module,
                "op": row.op,
                "shape": list(row.shape),
                "costs": {cost: row.number(cost) for cost in COSTS},
                "macs": str(row.macs),
                "sizes": dict(row.sizes),
                "maskable": row.maskable,
                "reason": row.reason,
            }
            for row in self
        ]
        return {"rows": rows, "totals": self.totals()}

    def __str__(self) -> str:
        rows, rest = self._lines()
        return "\n".join((text_table(HEADER, rows, right=(4, 5)), *rest))

    def _repr_html_(self) -> str:
        rows, rest = self._lines()
        return html_table(HEADER, rows, right=(4, 5)) + "".join(map(html_line, rest))

    def _lines(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """A table's rows; fixed parameters without MACs are summed up in one line."""
        totals = self.totals()["macs"]
        quiet = [row for row in self if not row.maskable and row.macs == 0]
        lines: list[tuple[str, ...]] = []
        for row in self:
            if row in quiet:
                continue
            count = row.number()
            kind = "maskable" if row.maskable else "fixed"
            part = percent(share(count, totals["total"]))
            shape = shape_text(row.shape)
            macs = str(row.macs)
            lines.append((row.name, row.op, shape, macs, f"{count:,}", part, kind))
        for kind, count in totals.items():
            part = percent(share(count, totals["total"]))
            lines.append(("total", "", "", "", f"{count:,}", part, kind))
        params = sum(row.params for row in quiet)
        rest = f"and {len(quiet)} fixed without MACs: {params:,} parameters"
        return lines, [rest] * bool(quiet)
