"""The time of one layer as a straight line over its density."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """What a layer takes, in milliseconds.

    Attributes:
        dense: as it is.
        fixed: sparse, with nothing kept.
        slope: sparse, for all that is kept.
        residual: largest distance of a measurement from the line, relative.
        form: what the layer becomes, a target of `sparsefx.lower`.
    """

    dense: float
    fixed: float
    slope: float
    residual: float
    form: str

    @property
    def even(self) -> float:
        """The density at which sparse takes as long as dense, in [0, 1].

        Example:
            >>> Line(2.0, 0.5, 5.0, 0.01, "csr").even
            0.3
        """
        if self.slope <= 0:
            return float(self.fixed < self.dense)
        return min(max((self.dense - self.fixed) / self.slope, 0.0), 1.0)

    def at(self, time: float) -> float:
        """The density at which the sparse layer takes ``time``, in [0, 1].

        Example:
            >>> Line(2.0, 0.5, 5.0, 0.01, "csr").at(1.0)
            0.1
        """
        if self.slope <= 0:
            return float(time >= self.fixed)
        return min(max((time - self.fixed) / self.slope, 0.0), 1.0)
