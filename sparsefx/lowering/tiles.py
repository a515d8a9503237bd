"""Feature-major tiles: the layout in which sparse products on a CPU are fast.

A sparse weight times activations adds up few rows of the activations for every row
of the result. That is fast when a row, one feature of many tokens, lies in one
piece, starts on a cache line and fits the vector registers. So activations
``(batch, features, tokens)`` are cut along the tokens into tiles
``(tiles, features, width)``, whose width is a multiple of 16 and at most 256.

Neighbouring layers cut alike. What lies between two products then reads and writes
the same places, and a compiler makes one loop of it: no transpose is left.

Shapes: B batch, F features, T tokens, W width, P pieces a sample is cut into.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

LINE = 16  # float32 numbers in a cache line, and in a vector register
WIDEST = 256  # wider rows leave the registers and the second-level cache
FEWEST = 48  # samples with fewer tokens share a tile


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the tokens of one sample are cut.

    Attributes:
        tokens: tokens of a sample.
        pieces: tiles a sample becomes.
        width: tokens of a tile, those added as padding included.
    """

    tokens: int
    pieces: int
    width: int

    @classmethod
    def of(cls, tokens: int) -> Tiling:
        """The tiling of samples of ``tokens`` tokens, at least 1.

        Example:
            >>> Tiling.of(197).width, Tiling.of(1024).pieces
            (208, 4)
        """
        pieces = math.ceil(tokens / WIDEST)
        width = LINE * math.ceil(tokens / (pieces * LINE))
        return cls(tokens, pieces, width)

    def cut(self, x_BFT: Tensor) -> Tensor:
        """Tiles ``(B * P, F, W)`` of ``(B, F, T)``, zeros at the end of the last.

        Example:
            >>> import torch
            >>> Tiling.of(300).cut(torch.ones(2, 8, 300)).shape
            torch.Size([4, 8, 160])
        """
        padding = self.pieces * self.width - self.tokens
        if padding:
            x_BFT = functional.pad(x_BFT, (0, padding))
        if self.pieces == 1:
            return x_BFT
        batch, features, _ = x_BFT.shape
        x_BFPW = x_BFT.reshape(batch, features, self.pieces, self.width)
        return x_BFPW.transpose(1, 2).reshape(-1, features, self.width)

    def join(self, y_NFW: Tensor) -> Tensor:
        """``(B, F, T)`` of the tiles: `cut` undone.

        Example:
            >>> import torch
            >>> tiling, x = Tiling.of(300), torch.randn(2, 8, 300)
            >>> torch.equal(tiling.join(tiling.cut(x)), x)
            True
        """
        if self.pieces > 1:
            features = y_NFW.shape[1]
            y_BPFW = y_NFW.reshape(-1, self.pieces, features, self.width)
            y_NFW = y_BPFW.transpose(1, 2).reshape(
                -1, features, self.pieces * self.width
            )
        return y_NFW[..., : self.tokens]


def feature_major(x: Tensor) -> Tensor:
    """Activations ``(..., F)`` as ``(B, F, T)``; a view where the layout allows it.

    The first dimension stays the batch if its samples are large enough.

    Example:
        >>> import torch
        >>> feature_major(torch.ones(2, 197, 8)).shape
        torch.Size([2, 8, 197])
        >>> feature_major(torch.ones(32, 8)).shape
        torch.Size([1, 8, 32])
    """
    features = x.shape[-1]
    batch = _batch(x.shape)
    return x.reshape(batch, -1, features).transpose(1, 2)


def feature_last(y_BFT: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``(..., F)`` with the leading sizes of ``shape``: `feature_major` undone.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 50, 8)
        >>> torch.equal(feature_last(feature_major(x), x.shape), x)
        True
    """
    return y_BFT.transpose(1, 2).reshape(*shape[:-1], y_BFT.shape[1])


def _batch(shape: tuple[int, ...]) -> int:
    if len(shape) < 3 or math.prod(shape[1:-1]) < FEWEST:
        return 1
    return shape[0]
