"""Many calls of a model, run together: all of them wait where a weight is next used.

Each call runs in a thread of its own, one of them at a time. It stops where it is about
to multiply with a weight that is open. When every call waits, the inputs of one weight
are there for all of them, as the layers before have left them; somebody may look at
these and write the weight, which is then closed, and the calls go on. So every layer is
run once, by the model's own code, at any sizes, and no more is held than what the calls
hold in that place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.pruning.products import Product, ProductMode
from sparsefx.tracing.example_calls import Call

Visit = Callable[[str, Sequence[tuple[int, Product]]], None]


class _Stopped(BaseException):
    """Ends a call that nobody waits for any more."""


class _Lane(ProductMode):
    """One call of the model.

    Attributes:
        at: the product it waits before; None if it has not begun or has ended.
    """

    def __init__(
        self,
        model: nn.Module,
        call: Call,
        weights: Mapping[str, Tensor],
        open_: set[str],
    ) -> None:
        super().__init__(weights)
        self.at: Product | None = None
        self._model, self._call = model, call
        self._open = open_
        self._error: BaseException | None = None
        self._stopped = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def advance(self) -> None:
        """Runs to the next product with an open weight, or to the end."""
        if not self._thread.is_alive():
            self._thread.start()
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ends the call where it waits."""
        if self._thread.is_alive():
            self._stopped = True
            self._go.release()
            self._thread.join()

    def met(self, product: Product, call: Callable[[], Any]) -> Any:
        """Waits before products with open weights."""
        if product.name in self._open:
            self.at = product
            self._back.release()
            self._go.acquire()
            self.at = None
            if self._stopped:
                raise _Stopped
        return call()

    def _run(self) -> None:
        self._go.acquire()
        args, kwargs = self._call
        try:
            with torch.no_grad(), self:
                self._model(*args, **kwargs)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        self._back.release()


def run_together(
    model: nn.Module, calls: Sequence[Call], weights: Mapping[str, Tensor], visit: Visit
) -> set[str]:
    """Runs calls of a model and shows the inputs of each weight, of all calls at once.

    Args:
        model: run as it is, without gradients; its buffers may change.
        calls: positional and keyword inputs.
        weights: the weights to wait for, by name, in the order in which calls that wait
            for different ones are served.
        visit: is given a weight's name and its next product in every call that has
            one, with the call's number; it may write the weight.

    Returns:
        Names of the weights that no call has used.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> calls = [((torch.ones(3, 2),), {}), ((torch.ones(4, 2),), {})]
        >>> named = dict(net.named_parameters())
        >>> run_together(net, calls, {n: named[n] for n in ("0.weight", "1.weight")},
        ...     lambda name, found: print(name, [len(p.inputs) for _, p in found]))
        0.weight [3, 4]
        1.weight [3, 4]
        set()
    """
    left = set(weights)
    places = {name: place for place, name in enumerate(weights)}
    lanes = [_Lane(model, call, weights, left) for call in calls]
    try:
        for lane in lanes:
            lane.advance()
        while found := [(i, x.at) for i, x in enumerate(lanes) if x.at is not None]:
            name = min((product.name for _, product in found), key=places.__getitem__)
            here = [(i, product) for i, product in found if product.name == name]
            with torch.no_grad():
                visit(name, here)
            left.discard(name)
            for i, _ in here:
                lanes[i].advance()
    finally:
        for lane in lanes:
            lane.stop()
    return left
