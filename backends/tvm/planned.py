"""A lowered Program on planned memory, and the artifact that is made of it, on whatever machine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.fx import Node

from ... import __version__
from ...artifact import constant_offsets, write_artifact
from ...memory_use import MemoryUse
from ...printer import op_name, print_type
from ...program import Program
from ...progress import Progress
from ...runtime.container import LIBRARY
from ...runtime.samples import Samples, choose_inputs, make_inputs
from ...runtime.structure import TensorSpec
from ...runtime.tensor_file import numpy_dtype
from ..base import Lowered
from .graph_lowering import GraphLowering, HostCall, KernelCall
from .kernels.base import Call
from .memory import Lifetime, peak, plan
from .views import ITEM_SIZES, View

CONSTANTS, DERIVED, ARENA = range(3)  # entries of the address table; inputs and outputs follow


@dataclass
class PlannedLowered(Lowered):
    """A Program as kernel calls on planned memory. What code they become is up to the machine's subclass."""

    code_name: ClassVar[str] = LIBRARY  # the artifact's member that holds the code
    lowering: GraphLowering

    def __post_init__(self) -> None:
        self.lifetimes = _lifetimes(self.lowering)
        self.peak_bytes = peak(self.lifetimes)
        self._place_arena()
        self._place_derived()
        self._place_constants()

    @abstractmethod
    def code(self) -> tuple[bytes, Mapping[str, Any]]:
        """The machine's code of all kernels, and what the artifact's manifest says about it."""

    def more_report(self) -> Mapping[str, Any]:
        """What the report holds besides what all machines' have."""
        return {}

    def report_text(self) -> str:
        """The report as text."""
        return self.text()

    def programs(self) -> Sequence[bytes]:
        """Programs of another device than the one that the code is for."""
        return ()

    def host_call_facts(self) -> list[dict[str, Any]]:
        """What the manifest says of the calls between kernels."""
        return []

    def _place_arena(self) -> None:
        self.arena_bytes = plan(self.lifetimes)
        self.kernel_calls, self.host_calls = self.lowering.calls, self.lowering.host_calls

    def _place_derived(self) -> None:
        calls = [*self.lowering.prepare_calls, *self.lowering.calls]
        derived = (view.storage for call in calls for view in call.views if view.storage.space == "derived")
        ordered = sorted(dict.fromkeys(derived), key=lambda s: -s.bytes)
        offsets, self.derived_bytes = constant_offsets([s.bytes for s in ordered])
        for storage, offset in zip(ordered, offsets, strict=True):
            storage.offset = offset

    def _place_constants(self) -> None:
        """Those that only `prepare` reads come first: their memory is given back after loading."""
        used = {view.storage for call in self.lowering.calls for view in call.views}
        used |= {view.storage for call in self.lowering.host_calls for view in host_views(call)}
        self.constants = sorted(self.lowering.constants, key=lambda constant: constant[0] in used)
        offsets, total = constant_offsets([storage.bytes for storage, _ in self.constants])
        self.constant_offsets, self.constants_bytes = offsets, total
        self.load_only_bytes = [*offsets, total][sum(storage not in used for storage, _ in self.constants)]
        for (storage, _), offset in zip(self.constants, offsets, strict=True):
            storage.offset = offset

    @property
    def table_size(self) -> int:
        """Entries of the address table."""
        return 3 + len(self.lowering.program.placeholders) + len(self.lowering.outputs)

    def text(self) -> str:
        """One line a call: the kernel, its operands and the node it computes."""
        lines = []
        for number, call in enumerate(self.kernel_calls):
            operands = ", ".join(self._operand_text(view) for view in call.views)
            node = f"%{call.node.name}" if call.node is not None else "result"
            lines.append(
                f"{number:4d} {call.kernel.describe()}({operands})  # {node}{' ' + call.note if call.note else ''}"
            )
        return "\n".join(lines) + "\n"

    def memory_use(self) -> MemoryUse:
        moments: dict[int, int] = {}
        for each in self.lifetimes:
            if each.first == each.last:
                moments[each.first] = moments.get(each.first, 0) + each.storage.bytes
        scratch = max(moments.values(), default=0)
        return MemoryUse(self.constants_bytes, self.load_only_bytes, self.derived_bytes, self.arena_bytes, scratch)

    def layers(self) -> list[dict[str, Any]]:
        """For each call what reports show: node, op, source line, kernel, type, layout, work."""
        return [_layer(call) for call in self.kernel_calls]

    def build(
        self, path: Path, reference: Program, *, bundle_runtime: bool = False, progress: Progress | None = None
    ) -> None:
        """Generate code and write the artifact."""
        stage = progress or (lambda name: None)
        program = self.lowering.program
        stage("code generation")
        code, facts = self.code()
        inputs = [
            _spec(name, node) for name, node in zip(_input_names(self.lowering), program.placeholders, strict=True)
        ]
        outputs = [_spec(f"output {i}", node) for i, node in enumerate(program.results)]
        stage("expected outputs")
        samples, tolerances = _samples(reference, inputs)
        stage("write")
        write_artifact(
            path,
            {
                "fxpress": __version__,
                "target": str(self.lowering.target),
                "signature": program.signature.to_json(),
                "inputs": [spec.to_json() for spec in inputs],
                "outputs": program.outputs.to_json(),
                "output_specs": [spec.to_json() for spec in outputs],
                "tolerances": tolerances,
                "memory": {
                    "arena": self.arena_bytes,
                    "derived": self.derived_bytes,
                    "load_only": self.load_only_bytes,
                },
                "calls": len(self.kernel_calls),
                "prepare_calls": len(self.lowering.prepare_calls),
                "layers": self.layers(),
                "host_calls": self.host_call_facts(),
                "pipeline": ",".join(record.name for record in program.history),
                "fallbacks": _fallbacks(self.host_calls),
                **facts,
            },
            code,
            [tensor.numpy() if tensor.dtype != torch.bfloat16 else tensor.view(torch.uint16).numpy()
             for _, tensor in self.constants],
            samples,
            report={
                "passes": [  # without their seconds: equal models make equal files
                    {
                        "name": r.name, "rewrites": list(r.rewrites), "skipped": list(r.skipped),
                        "decisions": list(r.decisions),
                    }
                    for r in program.history
                ],
                "arena_bytes": self.arena_bytes,
                "peak_live_bytes": self.peak_bytes,
                "program": program.text(),
                **self.more_report(),
            },
            report_text=self.report_text(),
            offsets=self.constant_offsets,
            bundle_runtime=bundle_runtime,
            programs=self.programs(),
            code_name=self.code_name,
        )  # fmt: skip

    def _call(self, call: KernelCall) -> Call:
        return Call(call.kernel, tuple(self._address(view) for view in call.views))

    def _address(self, view: View) -> tuple[int, int]:
        """Table entry and element offset of a view's first element."""
        return self._entry(view), view.storage.offset // ITEM_SIZES[view.dtype] + view.offset

    def _entry(self, view: View) -> int:
        storage = view.storage
        inputs = len(self.lowering.program.placeholders)
        return {
            "constant": CONSTANTS,
            "derived": DERIVED,
            "arena": ARENA,
            "input": 3 + storage.index,
            "output": 3 + inputs + storage.index,
        }[storage.space]

    def _operand_text(self, view: View) -> str:
        entry, offset = self._address(view)
        strides = "" if view.is_dense else f" strides {list(view.strides)}"
        return f"{view.storage.space}[{entry}]+{offset}: {view.dtype}{list(view.shape)}{strides}"


def _lifetimes(lowering: GraphLowering) -> list[Lifetime]:
    """First and last call of every arena storage. A host call counts as both neighbours' moment."""
    uses: dict[Any, list[int]] = {}

    def use(views: Iterable[View], *moments: int) -> None:
        for view in views:
            if view.storage.space == "arena":
                uses.setdefault(view.storage, []).extend(moments)

    for number, call in enumerate(lowering.calls):
        use(call.views, number)
    for host in lowering.host_calls:
        use(host_views(host), host.at - 1, host.at)
    return [Lifetime(storage, min(moments), max(moments)) for storage, moments in uses.items()]


def host_views(call: HostCall) -> list[View]:
    return [x for x in torch.utils._pytree.tree_leaves((call.arguments, call.outputs)) if isinstance(x, View)]


def _samples(reference: Program, specs: Sequence[TensorSpec]) -> tuple[Samples, list[float]]:
    """Sample inputs, what the captured model gives for them in float64, and the error each output may have.

    The bound is twice the usual one: that judges a model on given data, a self-test has to tell a broken deployment
    (another CPU, a damaged file) from the rounding of one sample. Where float32 numbers are rounded to integers, an
    output may also be off by twice the worst of several runs in which those near an edge fall the other way.
    """
    from ...numerics import FLOAT32_EPSILON, compare_outputs, disturbed_errors, has_rounding, run_float64

    chosen = choose_inputs(specs, [_to_array(x) for x in reference.example_inputs])
    inputs = [_to_tensor(x) for x in make_inputs(chosen, specs)]
    baseline, exact = reference.run_flat(*inputs), run_float64(reference, inputs)
    tolerances = [2 * bound + FLOAT32_EPSILON for bound in compare_outputs(baseline, baseline, exact).bounds]
    if has_rounding(reference):
        disturbed = disturbed_errors(reference, inputs, exact)
        tolerances = [max(limit, 2 * error) for limit, error in zip(tolerances, disturbed, strict=True)]
    expected = [_to_array(x.to(y.dtype)) for x, y in zip(exact, baseline, strict=True)]
    return Samples.of(chosen, expected), tolerances


def _to_array(x: torch.Tensor) -> Any:
    """A dense numpy array; bfloat16, which torch does not hand over, by its bits."""
    x = x.contiguous()
    return x.numpy() if x.dtype != torch.bfloat16 else x.view(torch.uint16).numpy().view(numpy_dtype("bfloat16"))


def _to_tensor(x: Any) -> torch.Tensor:
    """The tensor of a numpy array, bfloat16 included."""
    x = np.ascontiguousarray(x)
    if str(x.dtype) != "bfloat16":
        return torch.from_numpy(x)
    return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)


def _input_names(lowering: GraphLowering) -> list[str]:
    return list(lowering.program.signature.leaf_names())


def _spec(name: str, node: Node) -> TensorSpec:
    value = node.meta["val"]
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))


def _layer(call: KernelCall) -> dict[str, Any]:
    node = call.node
    output = call.views[-1]
    return {
        "node": node.name if node is not None else "",
        "op": op_name(node.target) if node is not None else "",
        "source": node.meta.get("source", "") if node is not None else "",
        "type": print_type(node.meta["val"]) if node is not None else f"{output.dtype}{list(output.shape)}",
        "kernel": call.kernel.describe(),
        "note": call.note,
        "layout": _layout(call),
        "flops": call.kernel.flops(),
        "bytes": call.kernel.traffic([view.bytes for view in call.views]),
    }


def _layout(call: KernelCall) -> str:
    node, output = call.node, call.views[-1]
    channels_last = node is not None and str(node.target).startswith("fxpress.") and node.args and node.args[-1] is True
    order = "channels-last" if channels_last else "row-major" if output.is_dense else "strided"
    return f"{order} halo={list(output.halo)}" if any(output.halo) else order


def _fallbacks(calls: Sequence[HostCall]) -> list[str]:
    return [
        f"%{c.node.name}: {op_name(c.node.target)} runs in PyTorch ({c.node.meta.get('source', '?')})"
        for c in calls
        if c.on == "PyTorch"
    ]
