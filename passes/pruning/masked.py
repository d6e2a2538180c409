"""The masked original: what a pruned Program must compute, from the Program before and the indices that went."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from ...numerics import Float64
from ...ops import fxpress
from ...program import Program
from ..match import arguments
from .reduction_maps import REDUCTIONS
from .remove_units import Removal

aten = torch.ops.aten

CONTRACTIONS = frozenset(
    {
        *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, fxpress.conv.default),
        *(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
        *(fxpress.conv_transpose.default, aten.linear.default, fxpress.linear.default, aten.matmul.default),
        *(aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default),
        *(aten.scaled_dot_product_attention.default, fxpress.attention.default, aten.gru.input, aten.lstm.input),
    }
)
GROUP_NORMS = frozenset({aten.group_norm.default, fxpress.group_norm.default})
STATISTICS = frozenset({aten.layer_norm.default, aten.rms_norm.default, *GROUP_NORMS, *REDUCTIONS})


class MaskedOriginal(Interpreter):
    """Runs the original in its full size: consumers find zeros where indices went, statistics are over the others.

    Shapes and the numbers in the graph stay those of the original, so it shares nothing with how a Program is pruned
    but the list of indices.
    """

    def __init__(self, program: Program, removal: Removal) -> None:
        super().__init__(program.graph_module)
        self._program, self._removal = program, removal
        self._gone: dict[str, dict[int, Tensor]] = {}
        for (name, dim, part), indices in removal.gone.items():
            if part == -1:
                self._gone.setdefault(name, {})[dim] = torch.from_numpy(indices)

    def run_flat(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Execute on the flat inputs; return the flat outputs."""
        with torch.no_grad():
            return tuple(self.run(*inputs))

    def run_float64(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Execute as `numerics.run_float64` does: what rounding makes of it is then far below float32's epsilon."""
        return _Wide(self._program, self._removal).run_flat(
            *(x.double() if x.dtype == torch.float32 else x for x in inputs)
        )

    def run_node(self, n: Node) -> Any:
        touched = any(x.name in self._gone for x in n.all_input_nodes)
        if touched and n.target in CONTRACTIONS:
            return self._call(n, self._zeroed)
        if touched and n.target in STATISTICS:
            return self._over_the_rest(n)
        return super().run_node(n)

    def _call(self, n: Node, read: Any, **changed: Any) -> Any:
        values = arguments(n) | changed
        op: Any = n.target
        schema = op._schema.arguments
        values = map_arg(values, read)
        named = {a.name: values[a.name] for a in schema if a.kwarg_only and a.name in n.kwargs}
        return self.call_function(op, tuple(values[a.name] for a in schema if not a.kwarg_only), named)

    def _zeroed(self, x: Node) -> Tensor:
        value: Tensor = self.env[x]
        for dim, indices in self._gone.get(x.name, {}).items():
            value = value.index_fill(dim, indices, 0)
        return value

    def _left(self, x: Node, dim: int, size: int) -> Tensor:
        mask = torch.ones(size, dtype=torch.bool)
        if dim in self._gone.get(x.name, {}):
            mask[self._gone[x.name][dim]] = False
        return mask.nonzero().reshape(-1)

    def _compact(self, x: Node) -> Tensor:
        value: Tensor = self.env[x]
        for dim in range(value.dim()):
            value = value.index_select(dim, self._left(x, dim, value.shape[dim]))
        return value

    def _over_the_rest(self, n: Node) -> Any:
        a = arguments(n)
        changed: dict[str, Any] = {}
        if "normalized_shape" in a:
            changed["normalized_shape"] = list(self._compact(a["input"]).shape[-len(a["normalized_shape"]) :])
        if n.target in GROUP_NORMS:
            x, name = (a["input"], "num_groups") if "num_groups" in a else (a["x"], "groups")
            dim = self.env[x].dim() - 1 if a.get("channels_last") else 1
            channels = self.env[x].shape[dim]
            changed[name] = len(torch.unique(self._left(x, dim, channels) // (channels // a[name])))
        small = self._call(n, self._compact, **changed)
        whole = small.new_zeros(tuple(n.meta["val"].shape))
        grid = [self._left(n, dim, size) for dim, size in enumerate(whole.shape)]
        if not grid:
            return small
        return whole.index_put(torch.meshgrid(*grid, indexing="ij"), small)


class _Wide(MaskedOriginal, Float64):
    """As MaskedOriginal in float64."""
