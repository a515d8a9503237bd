"""Where the masked weights stand in a model, to notice when they no longer do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from sparsefx.errors import MaskError


class Places:
    """The owners of weights under masks or gates, and the way to each from the root.

    Layers may be wrapped (adapters do that): they are found where they then stand. They
    may not be replaced, lose their weight, or no longer share one that was shared.

    Example:
        >>> import sparsefx
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> sparse = sparsefx.transform(net, budget={"params": 0.5})
        >>> sparse[1] = nn.Linear(2, 2)
        >>> sparsefx.report(sparse)
        Traceback (most recent call last):
        sparsefx.errors.MaskError: '1' is no longer the Linear that was transformed...
    """

    def __init__(self, root: nn.Module, weights: Iterable[Tensor]) -> None:  # noqa: D107
        watched = {id(weight) for weight in weights}
        self._held = [
            (module, path, name)
            for path, module in root.named_modules()
            for name, weight in module._parameters.items()
            if id(weight) in watched
        ]
        shared: dict[int, list[tuple[nn.Module, str, str]]] = {}
        for module, path, name in self._held:
            shared.setdefault(id(module._parameters[name]), []).append(
                (module, path, name)
            )
        self._tied = [group for group in shared.values() if len(group) > 1]
        self._links = list(_links(root, {id(module) for module, *_ in self._held}))

    def check(self, root: nn.Module) -> None:
        """Raises where a weight is not where it was.

        Raises:
            MaskError: a layer was replaced, or its weight taken away or untied.
        """
        for parent, name, child in self._links:
            if parent._modules.get(name) is not child:
                self._look_again(root)
                break
        for module, path, name in self._held:
            if module._parameters.get(name) is None:
                raise MaskError(
                    f"the {type(module).__name__} {path!r} has lost its parameter "
                    f"{name!r} to another tool (pruning, a parametrization); use that "
                    "before sparsefx.transform, or on what sparsefx.finalize returns"
                )
        for (first, path, name), *others in self._tied:
            for module, other, theirs in others:
                if module._parameters[theirs] is not first._parameters[name]:
                    raise MaskError(
                        f"{other}.{theirs} no longer is {path}.{name}, with which it "
                        "was tied when the model was transformed; tie them again"
                    )

    def _look_again(self, root: nn.Module) -> None:
        there = {id(module) for module in root.modules()}
        for module, path, _ in self._held:
            if id(module) not in there:
                kind = getattr(type(module), "__name__", "module")
                raise MaskError(
                    f"{path!r} is no longer the {kind} that was transformed, so that "
                    "nothing masks what stands there now; replace layers before "
                    "sparsefx.transform, or finalize, replace and transform again"
                )
        self._links = list(_links(root, {id(module) for module, *_ in self._held}))


def _links(
    root: nn.Module, wanted: set[int]
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """The links on the way to the modules that are wanted, each once."""
    for parent in root.modules():
        for name, child in parent.named_children():
            if any(id(module) in wanted for module in child.modules()):
                yield parent, name, child
