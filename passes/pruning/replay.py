"""The steps of a recipe, one kind a function: what the data must be like, and how it is done again."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from ...errors import InvalidInput
from ...program import Program
from ...rewriter import Pass
from ..quantization.gptq import ITEMS
from ..quantization.walking import sample
from .float_training import WriteTrainedFloats
from .groups import Groups, find_groups
from .patterns import Blocks
from .reconstruction import reconstruct, visit_layers
from .refit_layers import RefitLayers
from .remove_blocks import RemoveBlocks, find_blocks
from .remove_units import Removal, RemoveUnits
from .weight_layers import WeightLayer, find_layers
from .zero_weights import ZeroWeights, unpack_mask

TRAINED = WriteTrainedFloats.name
Step = Mapping[str, Any]


class Replay:
    """Does the steps of a recipe one after the other; `program` is what has become of the original."""

    def __init__(
        self,
        program: Program,
        data: Iterable[Sequence[Tensor]],
        run: Callable[[Pass, Program], Program],
        recover: Callable[[Program, int], Program] | None,
    ) -> None:
        self.program = program
        self._data, self._run, self._recover = data, run, recover
        self._programs = [program]
        """What there was before each step."""
        self._removals: list[Removal | None] = []
        self._groups: Groups | None = None
        self._trainings = 0

    def step(self, step: Step) -> None:
        """Do one step. Raises InvalidInput where the Program does not fit."""
        self._removals.append(None)
        _STEPS[step["pass"]](self, step)
        self._programs.append(self.program)

    def remove_blocks(self, step: Step) -> None:
        known = {block.total.name for block in find_blocks(self.program)}
        missing = [name for name in step["totals"] if name not in known]
        if missing:
            raise _misfit(f"have a residual sum %{missing[0]}, x + f(x)", _found(self.program, missing[0]))
        self.program = self._run(RemoveBlocks(tuple(step["totals"])), self.program)

    def remove_units(self, step: Step) -> None:
        before = next((removal for removal in reversed(self._removals) if removal is not None), None)
        if step["again"] and self._groups is not None and before is not None:
            groups = self._groups.after(before.gone, self.program)
        else:
            groups = find_groups(self.program)
        by_name = {group.name: group for group in groups.removable}
        chosen = {}
        for row in step["groups"]:
            name, size = row["name"], row["size"]
            if name not in by_name:
                raise _misfit(f"have a group {name} of {size} units", _found(self.program, name))
            if by_name[name].size != size:
                raise _misfit(f"have {size} units in the group {name}", f"it has {by_name[name].size}")
            chosen[by_name[name]] = row["gone"]
        removal = Removal.of(groups, chosen)
        self.program = self._run(RemoveUnits(removal, again=step["again"]), self.program)
        self._groups, self._removals[-1] = groups, removal

    def zero_weights(self, step: Step) -> None:
        nodes = {node.name: node for node in self.program.nodes if node.op == "get_attr"}
        masks = {}
        for row in step["weights"]:
            name, shape = row["constant"], tuple(row["shape"])
            if name not in nodes:
                raise _misfit(f"have a constant %{name} of the shape {list(shape)}", "there is none")
            weight = self.program.constant(nodes[name])
            if tuple(weight.shape) != shape:
                raise _misfit(f"have the shape {list(shape)} for %{name}", f"it has {list(weight.shape)}")
            masks[name] = unpack_mask(row["zeros"], shape)
        weights = {name: self.program.constant(nodes[name]).masked_fill(mask, 0) for name, mask in masks.items()}
        if step["reconstructed"]:
            self._reconstruct(weights, masks)
        layers = {row["constant"]: row["layer"] for row in step["weights"]}
        made = {name: (layers[name], weight) for name, weight in weights.items()}
        self.program = self._run(ZeroWeights(made), self.program)

    def _reconstruct(self, weights: dict[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        layers = [layer for layer in find_layers(self.program)[0] if layer.weight.name in masks]

        def visit(layer: WeightLayer, moment: Tensor) -> Tensor:
            name = layer.weight.name
            weight = self.program.constant(layer.weight)
            made = reconstruct(layer.matrix(weight), moment, Blocks(), 0, 1.0, layer.matrix(masks[name]))
            weights[name] = layer.weight_of(made.to(weight.dtype))
            return weights[name]

        visit_layers(self.program, layers, sample(self._data, ITEMS), visit)

    def refit_layers(self, step: Step) -> None:
        first = min(step["since"], len(self._programs) - 1)
        removals = [removal for removal in self._removals[first:] if removal is not None]
        refit = RefitLayers(self._programs[first], removals, self._data, step["ridge"])
        self.program = self._run(refit, self.program)

    def train(self, step: Step) -> None:
        assert self._recover is not None
        self._trainings += 1
        self.program = self._recover(self.program, self._trainings)


_STEPS: dict[str, Callable[[Replay, Step], None]] = {
    RemoveBlocks.name: Replay.remove_blocks,
    RemoveUnits.name: Replay.remove_units,
    ZeroWeights.name: Replay.zero_weights,
    RefitLayers.name: Replay.refit_layers,
    TRAINED: Replay.train,
}


def needs_data(step: Step) -> bool:
    """Whether the step fits weights to calibration data."""
    return step["pass"] == RefitLayers.name or bool(step.get("reconstructed", False))


def check_step(step: Any, path: str | Path) -> None:
    """Raise InvalidInput unless the step, read from `path`, is one that can be replayed."""
    match step:
        case {"pass": RemoveBlocks.name, "totals": list(names)} if all(isinstance(name, str) for name in names):
            return
        case {"pass": RemoveUnits.name, "again": bool(), "groups": list(rows)} if all(map(_is_group, rows)):
            return
        case {"pass": ZeroWeights.name, "reconstructed": bool(), "weights": list(rows)} if all(map(_is_weight, rows)):
            return
        case {"pass": RefitLayers.name, "since": int(since), "ridge": float(ridge)} if since >= 0 and ridge > 0:
            return
        case {"pass": WriteTrainedFloats.name}:
            return
    kinds = ", ".join(_STEPS)
    raise InvalidInput(f"{path} must hold steps of a recipe ({kinds}), not {step!r:.200}")


def _is_group(row: Any) -> bool:
    match row:
        case {"name": str(), "size": int(size), "gone": list(gone)}:
            return all(isinstance(unit, int) and 0 <= unit < size for unit in gone) and len(set(gone)) < size
    return False


def _is_weight(row: Any) -> bool:
    match row:
        case {"constant": str(), "layer": str(), "shape": list(shape), "zeros": str(zeros)}:
            if not all(isinstance(size, int) and size >= 0 for size in shape):
                return False
            try:
                return len(base64.b64decode(zeros, validate=True)) == -(-int(np.prod(shape)) // 8)
            except binascii.Error:
                return False
    return False


def _misfit(expected: str, found: str) -> InvalidInput:
    return InvalidInput(f"model must {expected} for this recipe, but {found}; replay it on the model it was made of")


def _found(program: Program, name: str) -> str:
    node = next((node for node in program.nodes if node.name == name), None)
    return "there is no such node" if node is None else f"%{name} is {_what(node)}"


def _what(node: Node) -> str:
    shape = list(node.meta["val"].shape) if isinstance(node.meta.get("val"), Tensor) else "no tensor"
    return f"{node.target} of the shape {shape}"
