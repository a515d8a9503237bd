"""A recorded graph bound to the module it stands for, with its guards."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from sparsefx.torch_internals import TreeSpec, set_hints, tree_flatten, tree_unflatten
from sparsefx.tracing.gradient_regions import closed_on_error
from sparsefx.tracing.graph_module import bind
from sparsefx.tracing.guards import Guards, Noted, noted
from sparsefx.tracing.object_trees import unbox
from sparsefx.tracing.symbolic_inputs import ONE_BATCH

if TYPE_CHECKING:
    import sympy


def _kind(root: nn.Module) -> tuple[Any, ...]:
    """Type and device of the weights, which a graph may have written down."""
    first = next(root.parameters(), None)
    return () if first is None else (first.dtype, first.device)


class Program:
    """A graph, the calls it is valid for, and the module it belongs to.

    Attributes:
        graph: the fx graph (one for both modes).
        min_batch: the smallest batch the graph was proved for.
        mode: the only mode it stands for (True is train), or None for both.
        twin: the program for the other mode, if there are two.
        other: the program for a call of another structure, if there are several.
        reason: why there is none for train mode; "" if there is.
        one_batch: why the graph holds for the example's batch alone, though the module
            takes others; "" if it holds for them, or the module takes none.
    """

    def __init__(  # noqa: D107
        self,
        graph: fx.Graph,
        inputs: TreeSpec | None,
        leaves: Sequence[Any],
        output: TreeSpec | None,
        guards: Sequence[sympy.Basic] = (),
        *,
        batch: tuple[sympy.Symbol | None, int | None] = (None, None),
        mode: bool | None = None,
        attributes: Noted | None = None,
    ) -> None:
        self.graph = graph
        self.inputs = inputs
        self.output = output
        self.guards = tuple(guards)
        self.symbol = symbol = batch[0]
        self.batch = None if symbol is None else batch[1]
        self.min_batch = 1
        self.signature = tuple(_signature(leaf, self.batch) for leaf in leaves)
        self.kind: tuple[Any, ...] | None = None
        self.mode = mode
        self.twin: Program | None = None
        self.other: Program | None = None
        self.reason = ""
        self.one_batch = ""
        self.attributes = attributes or {}
        self._guards = Guards()
        self._bound: fx.GraphModule | None = None
        self._root: weakref.ref[nn.Module] | None = None
        self._batches: dict[int, bool] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.graph = copy.deepcopy(self.graph)
        twin.twin = None if self.twin is None else copy.deepcopy(self.twin, memo)
        twin.other = None if self.other is None else copy.deepcopy(self.other, memo)
        twin.rebind()
        return twin

    def of(self, root: nn.Module, graph: fx.Graph) -> Program:
        """The program of another graph, of another module, for the same calls."""
        twin = copy.copy(self)
        twin.graph, twin.attributes, twin.kind = graph, noted(root), None
        twin.rebind()
        return twin

    def modes(self) -> Iterator[tuple[str, Program]]:
        """The graphs by mode: one under "" for both, or "train" and "eval"."""
        names = {None: "", True: "train", False: "eval"}
        yield names[self.mode], self
        if self.twin is not None:
            yield names[self.twin.mode], self.twin

    def parts(self) -> Iterator[tuple[str, Program]]:
        """All graphs; those of further calls are named by number: "2", "2:train"."""
        call: Program | None = self
        number = 1
        while call is not None:
            for mode, part in call.modes():
                count = str(number) if number > 1 else ""
                yield ":".join(filter(None, (count, mode))), part
            call, number = call.other, number + 1

    def add_call(self, program: Program) -> None:
        """Makes this one stand for the calls of another program too."""
        last = self
        while last.other is not None:
            last = last.other
        last.other = program

    def reads_caches(self, root: nn.Module) -> bool:
        """Whether the graph reads tensors that are no parameters and no buffers."""
        known = {name for name, _ in root.named_parameters(remove_duplicate=False)}
        known |= {name for name, _ in root.named_buffers(remove_duplicate=False)}
        return any(
            node.op == "get_attr"
            and node.target not in known
            and isinstance(node.meta.get("val"), Tensor)
            for node in self.graph.nodes
        )

    @property
    def limits(self) -> tuple[str, ...]:
        """What the batch size must be for this graph to stand for the module."""
        names = {self.symbol: "batch"}
        said = [str(guard.subs(names)) for guard in self.guards if guard.free_symbols]
        least = [f"batch >= {self.min_batch}"] * (self.min_batch > 1)
        return tuple(dict.fromkeys((*least, *said)))

    def rebind(self) -> None:
        """Forgets the compiled graph; call it when the module tree has changed."""
        self._bound, self._root = None, None

    def module(self, root: nn.Module) -> fx.GraphModule:
        """The graph compiled over ``root``'s tensors (kept until it changes)."""
        if self._bound is None or self._root is None or self._root() is not root:
            self._bound, self._root = bind(self.graph, root), weakref.ref(root)
            self._bound.meta |= {ONE_BATCH: self.one_batch} if self.one_batch else {}
            self.graph = self._bound.graph
            self._guards = Guards.of(root, self.graph, self.attributes, self.mode)
            self.kind = self.kind or _kind(root)
        return self._bound

    def speak_of(self, batch: int) -> None:
        """Makes the sizes noted in the graph those of a call with this batch."""
        for _, part in self.parts():
            for node in part.graph.nodes:
                set_hints(node.meta.get("val"), {part.symbol: batch})

    def run(self, root: nn.Module, args: Any, kwargs: Any) -> tuple[bool, Any]:
        """``(True, output)``, or ``(False, None)`` when a guard does not hold."""
        done, out = self._run(root, args, kwargs)
        if done or self.other is None:
            return done, out
        return self.other.run(root, args, kwargs)

    def _run(self, root: nn.Module, args: Any, kwargs: Any) -> tuple[bool, Any]:
        if self.mode is not None and root.training != self.mode:
            twin = self.twin
            return (False, None) if twin is None else twin.run(root, args, kwargs)
        if self.inputs is None:
            if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
                return False, None
            return True, self.module(root)(*args)
        leaves, spec = tree_flatten((args, kwargs))
        if spec != self.inputs or not self.holds(leaves):
            return False, None
        bound = self.module(root)
        if not self._guards.hold() or _kind(root) != self.kind:
            return False, None
        with closed_on_error():
            out = bound(*(leaf for leaf in leaves if isinstance(leaf, Tensor)))
        assert self.output is not None
        many = self.output.num_leaves != 1
        return True, unbox(tree_unflatten(list(out) if many else [out], self.output))

    def holds(self, leaves: Sequence[Any]) -> bool:
        """Whether the graph stands for a call with these leaves."""
        batch: int | None = None
        for leaf, expected in zip(leaves, self.signature, strict=True):
            if not isinstance(leaf, Tensor):
                if type(leaf) is not type(expected) or leaf != expected:
                    return False
                continue
            if not isinstance(expected, tuple):
                return False
            shape, dtype, device = expected
            if leaf.dtype != dtype or leaf.device != device or leaf.ndim != len(shape):
                return False
            for size, wanted in zip(leaf.shape, shape, strict=True):
                if wanted is None:
                    batch = size if batch is None else batch
                if size != (batch if wanted is None else wanted):
                    return False
        return batch is None or self._batch_holds(batch)

    def _batch_holds(self, batch: int) -> bool:
        if batch not in self._batches:
            symbols = {s for guard in self.guards for s in guard.free_symbols}
            values = dict.fromkeys(symbols, batch)
            proved = batch >= self.min_batch
            self._batches[batch] = proved and all(
                bool(guard.subs(values)) for guard in self.guards
            )
        return self._batches[batch]


def _signature(leaf: Any, batch: int | None) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    shape: list[int | None] = list(leaf.shape)
    if shape and batch is not None and shape[0] == batch:
        shape[0] = None
    return tuple(shape), leaf.dtype, leaf.device
