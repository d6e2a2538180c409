"""How much error each layer causes alone when it is quantised, measured on some of the calibration items."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from ...ops import fxpress
from ...ops.activation import activate
from ...progress import Progress
from ...runtime.container import replaced_file
from .calibration import Calibration
from .costs import computing
from .integer_ops import activation_of, values_of
from .plan import Plan
from .quantize_ops import row_scales
from .walking import layer_sums, round_to, sample
from .weights import quantize_weight

ITEMS = 8
CACHE_FORMAT = 1
_log = logging.getLogger("fxpress.quantize")


@dataclass(frozen=True)
class Noise:
    """Error power relative to the signal's: where the quantised nodes end, and at the model's outputs."""

    layer: float
    output: float


def groups(plan: Plan) -> list[tuple[str, ...]]:
    """The layers that are decided on together, in graph order: those whose int8 results must share a scale."""
    deciding = [
        node.name
        for node in plan.program.nodes
        if node.name in plan.layers
        or node.name in plan.stored
        or (node.name in computing(plan) and node.target in _PRODUCTS)
    ]
    ties: Any = nx.Graph()
    ties.add_nodes_from(deciding)
    by_scale: dict[Any, str] = {}
    moves = _moved(plan)
    for name in deciding:
        for shared in moves.get(name, ()):
            first = by_scale.setdefault(shared, name)
            ties.add_edge(first, name)
    order = {name: index for index, name in enumerate(deciding)}
    parts = [tuple(sorted(part, key=order.__getitem__)) for part in nx.connected_components(ties)]
    return sorted(parts, key=lambda part: order[part[0]])


def measure_sensitivity(
    plan: Plan,
    calibration: Calibration,
    candidates: Sequence[tuple[str, ...]],
    *,
    items: int = ITEMS,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Noise]:
    """The noise that quantising each of `candidates` (names of nodes), and nothing else, causes.

    Means over `items` of the calibration items. With `cache`, a folder, they are stored under a hash of plan and data.
    """
    stage = progress or (lambda name: None)
    chosen = sample(calibration, items)
    path = None if cache is None else cache / f"sensitivity-{_key(plan, chosen, candidates)}.json"
    known = _read(path, len(candidates)) if path is not None else None
    if known is not None:
        stage("sensitivity from cache")
        return known
    sums = [[0.0, 0.0] for _ in candidates]
    for number, item in enumerate(chosen):
        exact = _Exact(plan, item)
        for index, names in enumerate(candidates):
            stage(f"sensitivity: item {number + 1} of {len(chosen)}, layer {index + 1} of {len(candidates)}")
            for place, noise in enumerate(exact.noise_of(set(names))):
                sums[index][place] += noise / len(chosen)
    found = [Noise(*each) for each in sums]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as file:
            file.write(json.dumps([[each.layer, each.output] for each in found]).encode())
    return found


def whole_noise(plan: Plan, calibration: Calibration, items: int = ITEMS) -> float:
    """The noise at the outputs when everything that the Plan quantises is, the mean over `items` calibration items."""
    names = computing(plan) | set(plan.stored) | plan.tables
    if not names:
        return 0.0
    chosen = sample(calibration, items)
    return sum(tuple(_Exact(plan, item).noise_of(names))[1] for item in chosen) / len(chosen)


def relative_noise(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """Error power over signal power, the mean over the floating-point tensors of two lists."""
    ratios = [
        float((x.double() - y.double()).square().sum()) / max(float(y.double().square().sum()), 1e-300)
        for x, y in zip(found, wanted, strict=True)
        if isinstance(y, Tensor) and y.is_floating_point() and y.numel()
    ]
    return sum(ratios) / len(ratios) if ratios else 0.0


_PRODUCTS = (
    torch.ops.aten.matmul.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.scaled_dot_product_attention.default,
)


def _moved(plan: Plan) -> dict[str, set[int]]:
    """For each node the sets of values with one scale that its int8 result is in, by a number."""
    ties: Any = nx.Graph()
    for node in plan.program.nodes:
        if node.name not in plan.integer:
            continue
        ties.add_node(node.name)
        if node.target is torch.ops.aten.cat.default:
            ties.add_edges_from((node.name, x.name) for x in node.all_input_nodes if x.name in plan.integer)
    parts = enumerate(nx.connected_components(ties))
    return {name: {number} for number, part in parts if len(part) > 1 for name in part}


class _Exact:
    """One item's float32 values, all of them, and what becomes of the results when some nodes are quantised."""

    def __init__(self, plan: Plan, item: Sequence[Tensor]) -> None:
        self._plan = plan
        self._values: dict[Node, Any] = {}
        inputs = iter(item)
        with torch.no_grad():
            for node in plan.program.nodes:
                if node.op == "placeholder":
                    self._values[node] = next(inputs)
                elif node.op == "get_attr":
                    self._values[node] = plan.program.constant(node)
                elif node.op == "call_function":
                    self._values[node] = _call(node, self._values)

    def noise_of(self, names: set[str]) -> Iterator[float]:
        changed: dict[Node, Any] = {}
        last = None
        with torch.no_grad():
            for node in self._plan.program.nodes:
                if node.name not in names and not any(x in changed for x in node.all_input_nodes):
                    continue
                if node.op != "call_function":
                    continue
                values = {x: changed.get(x, self._values[x]) for x in node.all_input_nodes}
                changed[node] = self._quantized(node, values) if node.name in names else _call(node, values)
                last = node if node.name in names else last
        assert last is not None
        yield relative_noise([changed[last]], [self._values[last]])
        results = self._plan.program.results
        yield relative_noise([changed.get(x, self._values[x]) for x in results], [self._values[x] for x in results])

    def _quantized(self, node: Node, inputs: Mapping[Node, Any]) -> Any:
        """What the node's quantised form makes of its inputs, in float32."""
        plan, values = self._plan, values_of(node)
        if node.name in plan.stored:
            return self._stored(node, inputs)
        if node.name in plan.layers:
            return self._layer(node, inputs)
        if node.name in plan.tables:
            table = inputs[values["weight"]]
            scale = row_scales(table)
            return _call(node, {**inputs, values["weight"]: quantize_weight(table, scale) * scale.unsqueeze(1)})
        return self._rounded(node, _call(node, {x: self._rounded(x, value) for x, value in inputs.items()}))

    def _rounded(self, node: Node, value: Any) -> Any:
        params = self._plan.values.get(node.name)
        return round_to(value, params) if params is not None and isinstance(value, Tensor) else value

    def _layer(self, node: Node, inputs: Mapping[Node, Any]) -> Any:
        plan, values, layer = self._plan, values_of(node), self._plan.layers[node.name]
        x = round_to(inputs[values["x"]], layer.x)
        (y,) = layer_sums(node, [x], layer.dequantized_weight, layer.bias)
        is_integer = node.name in plan.integer
        residual = values.get("residual")
        if residual is not None:
            y = y + (self._rounded(residual, inputs[residual]) if is_integer else inputs[residual])
        if node.name in plan.inner:
            y = round_to(y, plan.inner[node.name])
        y = activate(y, activation_of(node))
        return self._rounded(node, y) if is_integer else y

    def _stored(self, node: Node, inputs: Mapping[Node, Any]) -> Any:
        values, stored = values_of(node), self._plan.stored[node.name]
        x, bias, residual = (None if values[n] is None else inputs[values[n]] for n in ("x", "bias", "residual"))
        if self._plan.config.dynamic:
            return fxpress.dynamic_linear.default(x, stored.stored, bias, residual, stored.scale, values["activation"])
        rest = (stored.scale, stored.zero, stored.bits, stored.group, values["activation"])
        return fxpress.weight_only_linear.default(x, stored.stored, bias, residual, *rest)


def _call(node: Node, values: Mapping[Node, Any]) -> Any:
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda x: values[x])
    return node.target(*args, **kwargs)


def _key(plan: Plan, items: Sequence[Sequence[Tensor]], candidates: Sequence[tuple[str, ...]]) -> str:
    sha = hashlib.sha256(f"{CACHE_FORMAT}{plan.config}{plan.program.text()}{plan.text()}{candidates}".encode())
    layers = [x for layer in plan.layers.values() for x in (layer.dequantized_weight, layer.bias)]
    stored = [x for each in plan.stored.values() for x in (each.stored, each.scale)]
    for x in (*plan.program.constants.values(), *layers, *stored, *(x for item in items for x in item)):
        sha.update(f"{x.dtype}{tuple(x.shape)}".encode())
        content: Any = x.detach().contiguous().flatten().view(torch.uint8).numpy()
        sha.update(content)
    return sha.hexdigest()


def _read(path: Path, count: int) -> list[Noise] | None:
    """What the file holds; None when it is missing or not what belongs there, which is logged."""
    try:
        found = [Noise(float(layer), float(output)) for layer, output in json.loads(path.read_text())]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        _log.warning("%s holds no sensitivities and is written anew: %r", path, error)
        return None
    if len(found) != count:
        _log.warning("%s holds the sensitivities of other layers and is written anew", path)
        return None
    return found
