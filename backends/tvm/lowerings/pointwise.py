"""Elementwise ops: chains of them become one kernel, written as a pointwise program over strided views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from ....target import Target
from ..graph_lowering import Check, GraphLowering, OpRule, dtype_name
from ..kernels.pointwise_ops import POINTWISE
from ..kernels.pointwise_program import Instruction
from ..placement import BIAS
from ..views import ITEM_SIZES, View
from .quantized_checks import check_quantized
from .view_ops import argument, shape_of

aten = torch.ops.aten
fxpress = torch.ops.fxpress
MAX_INSTRUCTIONS = 48  # of one kernel: beyond that its values no longer fit the registers
Value = int  # position of an instruction


class Chain:
    """Builds the program of one kernel from a node and the nodes fused into it."""

    def __init__(self, cx: GraphLowering, root: Node, inlined: set[Node]) -> None:
        self.cx = cx
        self.shape = shape_of(root)
        self.program: list[Instruction] = []
        self.views: list[View] = []
        self._inlined = inlined
        self._values: dict[Any, Value] = {}

    def node(self, node: Node) -> Value:
        """The value of a node: computed here if it is fused, read from memory if not."""
        if node not in self._values:
            if node in self._inlined:
                self._values[node] = BUILDERS[node.target](node, self)
            else:
                self._values[node] = self._read(node)
        return self._values[node]

    def op(self, name: str, *arguments: Value, dtype: str, parameters: tuple[Any, ...] = ()) -> Value:
        """Append an instruction; equal ones are shared."""
        instruction = Instruction(name, arguments, dtype, parameters)
        if instruction not in self._values:
            self.program.append(instruction)
            self._values[instruction] = len(self.program) - 1
        return self._values[instruction]

    def constant(self, value: Any, dtype: str) -> Value:
        """A number in all lanes."""
        if dtype == "bool":
            value = int(bool(value))
        elif dtype.startswith(("int", "uint")):
            value = int(value)
        else:
            value = float(value)
        # repr tells -0.0 from 0.0 and makes NaN equal to itself; the instruction itself holds the number
        key = ("constant", repr(value), dtype)
        if key not in self._values:
            self.program.append(Instruction("constant", (), dtype, (value,)))
            self._values[key] = len(self.program) - 1
        return self._values[key]

    def operand(self, value: Any, dtype: str) -> Value:
        """A node, or a number taken as `dtype`."""
        return self.node(value) if isinstance(value, Node) else self.constant(value, dtype)

    def dtype(self, value: Value) -> str:
        """The dtype of a value."""
        return self.program[value].dtype

    def cast(self, value: Value, dtype: str) -> Value:
        """The value as `dtype`."""
        return value if self.dtype(value) == dtype else self.op("cast", value, dtype=dtype)

    def _read(self, node: Node) -> Value:
        tensor = self.cx.constant_tensor(node)
        if tensor is not None and tensor.numel() == 1:
            return self.constant(tensor.item(), dtype_name(tensor.dtype))
        return self.read(self.cx.held(node).expand(self.shape))

    def read(self, view: View) -> Value:
        """The elements of a view of the kernel's shape; those of a biased one without the bias."""
        if view not in self.views:
            self.views.append(view)
        value = self.op("input", dtype=view.dtype, parameters=(self.views.index(view),))
        return self.cast(self.flipped(value), "int8") if view.biased else value

    def flipped(self, value: Value) -> Value:
        """An 8-bit integer with its bias added or taken away, as uint8."""
        return self.op("bitwise_xor", value, self.constant(BIAS, "uint8"), dtype="uint8")


Builder = Callable[[Node, Chain], Value]


def lower(node: Node, cx: GraphLowering) -> None:
    """Emit the kernel of a group at its last node; the others have no value of their own."""
    roots = cx.cached("pointwise groups", lambda: group_roots(cx))
    if roots[node] is not node:
        return
    chain = Chain(cx, node, {n for n, root in roots.items() if root is node})
    dtype = dtype_name(node.meta["val"].dtype)
    result = chain.cast(BUILDERS[node.target](node, chain), dtype)
    out = cx.output(node, strided=True, biased=node.target in QUANTIZED)
    if out.biased:
        result = chain.flipped(result)
    cx.elementwise(chain.views, [out], chain.program, [result])


def group_roots(cx: GraphLowering) -> dict[Node, Node]:
    """For each elementwise node the node whose kernel computes it: its only consumer's, if that has the same shape.

    A node read by several members of one group still belongs to it; one read outside, or returned, has its own kernel.
    """
    roots: dict[Node, Node] = {}
    sizes: dict[Node, int] = {}
    results = set(cx.program.results)
    for node in reversed(cx.program.nodes):
        if node.target not in BUILDERS or check(node, cx.target) is not None:
            continue
        users = {roots.get(user) for user in node.users}
        root = next(iter(users)) if len(users) == 1 else None
        fits = (
            root is not None
            and node not in results
            and shape_of(root) == shape_of(node)
            and sizes[root] < MAX_INSTRUCTIONS
        )
        roots[node] = root if fits and root is not None else node
        sizes[roots[node]] = sizes.get(roots[node], 0) + 3
    return roots


def check(node: Node, target: Target) -> str | None:
    for value in (node.meta["val"], *(n.meta["val"] for n in node.all_input_nodes)):
        if not isinstance(value, torch.Tensor) or dtype_name(value.dtype) not in ITEM_SIZES:
            return f"dtype {getattr(value, 'dtype', None)} has no elementwise kernels"
    return QUANTIZED_CHECKS[node.target](node, target) if node.target in QUANTIZED_CHECKS else None


# builders


def result_dtype(node: Node) -> str:
    return dtype_name(node.meta["val"].dtype)


def unary(name: str) -> Builder:
    def build(node: Node, chain: Chain) -> Value:
        dtype = result_dtype(node)
        source = chain.node(node.args[0])
        if POINTWISE[name].common:
            return chain.op(name, source, dtype=dtype)
        return chain.op(name, chain.cast(source, dtype), dtype=dtype)

    return build


def binary(name: str, flipped: bool = False) -> Builder:
    """x op alpha * y; `flipped` exchanges the operands first, as `rsub` does."""

    def build(node: Node, chain: Chain) -> Value:
        dtype = result_dtype(node)
        x, y = (chain.cast(chain.operand(a, dtype), dtype) for a in node.args[:2])
        if flipped:
            x, y = y, x
        alpha = argument(node, 2, "alpha", 1)
        if alpha != 1:
            y = chain.op("mul", y, chain.constant(alpha, dtype), dtype=dtype)
        return chain.op(name, x, y, dtype=dtype)

    return build


def comparison(name: str) -> Builder:
    def build(node: Node, chain: Chain) -> Value:
        values = [a.meta["val"] if isinstance(a, Node) else a for a in node.args[:2]]
        common = dtype_name(torch.result_type(*values))
        x, y = (chain.cast(chain.operand(a, common), common) for a in node.args[:2])
        return chain.op(name, x, y, dtype="bool")

    return build


def divide_with_mode(node: Node, chain: Chain) -> Value:
    mode = node.kwargs.get("rounding_mode", node.args[2] if len(node.args) > 2 else None)
    return binary({None: "div", "floor": "div_floor", "trunc": "div_trunc"}[mode])(node, chain)


def power_of_scalar(node: Node, chain: Chain) -> Value:
    dtype = result_dtype(node)
    return chain.op(
        "pow", chain.constant(node.args[0], dtype), chain.cast(chain.node(node.args[1]), dtype), dtype=dtype
    )


def power(node: Node, chain: Chain) -> Value:
    dtype = result_dtype(node)
    x, exponent = chain.cast(chain.node(node.args[0]), dtype), node.args[1]
    if exponent == 2:
        return chain.op("square", x, dtype=dtype)
    if exponent == 3:
        return chain.op("mul", chain.op("mul", x, x, dtype=dtype), x, dtype=dtype)
    if exponent == 0.5 and dtype.startswith("float"):
        return chain.op("sqrt", x, dtype=dtype)
    if exponent == -0.5 and dtype.startswith("float"):
        return chain.op("rsqrt", x, dtype=dtype)
    if exponent == -1 and dtype.startswith("float"):
        return chain.op("reciprocal", x, dtype=dtype)
    return chain.op("pow", x, chain.constant(exponent, dtype), dtype=dtype)


def select_where(node: Node, chain: Chain) -> Value:
    dtype = result_dtype(node)
    condition, x, y = node.args
    return _where(chain, chain.node(condition), chain.operand(x, dtype), chain.operand(y, dtype), dtype)


def masked_fill(node: Node, chain: Chain) -> Value:
    dtype = result_dtype(node)
    x, mask, value = node.args
    return _where(chain, chain.node(mask), chain.operand(value, dtype), chain.node(x), dtype)


def _where(chain: Chain, condition: Value, x: Value, y: Value, dtype: str) -> Value:
    return chain.op("where", chain.cast(condition, "bool"), chain.cast(x, dtype), chain.cast(y, dtype), dtype=dtype)


def clamp(node: Node, chain: Chain) -> Value:
    low, high = argument(node, 1, "min"), argument(node, 2, "max")
    dtype = result_dtype(node)
    value = chain.cast(chain.node(node.args[0]), dtype)
    for bound, name in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            value = chain.op(name, value, chain.cast(chain.operand(bound, dtype), dtype), dtype=dtype)
    return value


def hardtanh(node: Node, chain: Chain) -> Value:
    dtype = result_dtype(node)
    low, high = argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)
    return chain.op(
        "clamp", chain.node(node.args[0]), chain.constant(low, dtype), chain.constant(high, dtype), dtype=dtype
    )


def activation(name: str, *parameters: float) -> Builder:
    """An activation of kernels/vmath.py."""
    return lambda node, chain: chain.op(name, chain.node(node.args[0]), dtype=result_dtype(node), parameters=parameters)


def gelu(node: Node, chain: Chain) -> Value:
    return activation("gelu_tanh" if node.kwargs.get("approximate", "none") == "tanh" else "gelu")(node, chain)


def leaky_relu(node: Node, chain: Chain) -> Value:
    return activation("leaky_relu", float(argument(node, 1, "negative_slope", 0.01)))(node, chain)


def elu(node: Node, chain: Chain) -> Value:
    alpha, scale, input_scale = (
        float(argument(node, i, n, 1.0)) for i, n in ((1, "alpha"), (2, "scale"), (3, "input_scale"))
    )
    dtype = result_dtype(node)
    x = chain.node(node.args[0])
    scaled = x if input_scale == 1 else chain.op("mul", x, chain.constant(input_scale, dtype), dtype=dtype)
    negative = chain.op("mul", chain.op("expm1", scaled, dtype=dtype), chain.constant(alpha, dtype), dtype=dtype)
    positive = chain.op("gt", x, chain.constant(0, dtype), dtype="bool")
    value = chain.op("where", positive, x, negative, dtype=dtype)
    return value if scale == 1 else chain.op("mul", value, chain.constant(scale, dtype), dtype=dtype)


def prelu(node: Node, chain: Chain) -> Value:
    dtype = result_dtype(node)
    x, weight = chain.node(node.args[0]), node.args[1]
    view = chain.cx.view(weight)
    if view.elements > 1:
        view = View(
            view.storage,
            view.offset,
            (view.elements, *(1,) * (len(chain.shape) - 2)),
            (view.strides[0], *(0,) * (len(chain.shape) - 2)),
        )
    slope = chain.read(view.expand(chain.shape))
    positive = chain.op("gt", x, chain.constant(0, dtype), dtype="bool")
    return chain.op("where", positive, x, chain.op("mul", x, slope, dtype=dtype), dtype=dtype)


def cast(node: Node, chain: Chain) -> Value:
    return chain.cast(chain.node(node.args[0]), result_dtype(node))


def full(node: Node, chain: Chain) -> Value:
    return chain.constant(argument(node, 1, "fill_value"), result_dtype(node))


def filled_with(number: int) -> Builder:
    return lambda node, chain: chain.constant(number, result_dtype(node))


def scalar_tensor(node: Node, chain: Chain) -> Value:
    return chain.constant(node.args[0], result_dtype(node))


def arange(node: Node, chain: Chain) -> Value:
    name, dtype = node.target._overloadname, result_dtype(node)
    start, step = 0, 1
    if name == "start":
        start = node.args[0]
    elif name == "start_step":
        start, step = node.args[0], argument(node, 2, "step", 1)
    value = chain.cast(chain.op("index", dtype="int64", parameters=(0,)), dtype)
    if step != 1:
        value = chain.op("mul", value, chain.constant(step, dtype), dtype=dtype)
    return value if start == 0 else chain.op("add", value, chain.constant(start, dtype), dtype=dtype)


def triangle(keep: str) -> Builder:
    def build(node: Node, chain: Chain) -> Value:
        dtype, rank = result_dtype(node), len(chain.shape)
        row, column = (chain.op("index", dtype="int64", parameters=(rank - d,)) for d in (2, 1))
        diagonal = chain.constant(argument(node, 1, "diagonal", 0), "int64")
        inside = chain.op(keep, chain.op("sub", column, row, dtype="int64"), diagonal, dtype="bool")
        return _where(chain, inside, chain.node(node.args[0]), chain.constant(0, dtype), dtype)

    return build


def multiply_add(product: str) -> Builder:
    """addcmul, addcdiv: x + value * (a * b) or x + value * (a / b)."""

    def build(node: Node, chain: Chain) -> Value:
        dtype = result_dtype(node)
        x, a, b = (chain.cast(chain.node(n), dtype) for n in node.args[:3])
        term = chain.op(product, a, b, dtype=dtype)
        scale = node.kwargs.get("value", 1)
        if scale != 1:
            term = chain.op("mul", chain.constant(scale, dtype), term, dtype=dtype)
        return chain.op("add", x, term, dtype=dtype)

    return build


def lerp(node: Node, chain: Chain) -> Value:
    dtype = result_dtype(node)
    start, end = (chain.node(n) for n in node.args[:2])
    weight = chain.operand(node.args[2], dtype)
    step = chain.op("mul", weight, chain.op("sub", end, start, dtype=dtype), dtype=dtype)
    return chain.op("add", start, step, dtype=dtype)


def nan_to_num(node: Node, chain: Chain) -> Value:
    dtype = node.meta["val"].dtype
    if not dtype.is_floating_point:
        return chain.node(node.args[0])
    limits = torch.finfo(dtype)
    nan, high, low = (argument(node, i, n) for i, n in ((1, "nan"), (2, "posinf"), (3, "neginf")))
    numbers = (
        0.0 if nan is None else float(nan),
        limits.max if high is None else float(high),
        limits.min if low is None else float(low),
    )
    return chain.op("nan_to_num", chain.node(node.args[0]), dtype=result_dtype(node), parameters=numbers)


def _overloads(op: Any, *names: str) -> list[Any]:
    return [getattr(op, name) for name in names if hasattr(op, name)]


def _builders() -> dict[Any, Builder]:
    table: dict[Any, Builder] = {}
    for name in (
        "relu neg abs sign square reciprocal sqrt rsqrt exp expm1 log log1p sin cos erf exp2 log2 log10 tan asin acos "
        "atan sinh cosh asinh acosh atanh erfc lgamma floor ceil trunc round frac isnan isinf isfinite signbit "
        "logical_not bitwise_not"
    ).split():
        for overload in _overloads(getattr(aten, name, aten), "default"):
            table[overload] = unary(name)
    for name, ops in {
        "add": [aten.add], "sub": [aten.sub], "mul": [aten.mul], "div": [aten.div, aten.true_divide],
        "minimum": [aten.minimum], "maximum": [aten.maximum], "fmin": [aten.fmin], "fmax": [aten.fmax],
        "remainder": [aten.remainder], "fmod": [aten.fmod], "div_floor": [aten.floor_divide],
        "atan2": [aten.atan2], "hypot": [aten.hypot], "copysign": [aten.copysign],
        "logical_and": [aten.logical_and], "logical_or": [aten.logical_or], "logical_xor": [aten.logical_xor],
        "bitwise_and": [aten.bitwise_and], "bitwise_or": [aten.bitwise_or], "bitwise_xor": [aten.bitwise_xor],
        "shift_left": [aten.bitwise_left_shift, aten.__lshift__],
        "shift_right": [aten.bitwise_right_shift, aten.__rshift__],
        "logaddexp": [aten.logaddexp],
    }.items():  # fmt: skip
        for op in ops:
            for overload in _overloads(op, "Tensor", "Scalar", "default"):
                table[overload] = logical(name) if name.startswith("logical") else binary(name)
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        for overload in _overloads(getattr(aten, name), "Tensor", "Scalar"):
            table[overload] = comparison(name)
    for name in ("sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "mish", "relu6"):
        table[getattr(aten, name).default] = activation(name)
    return table


def logical(name: str) -> Builder:
    def build(node: Node, chain: Chain) -> Value:
        x, y = (chain.node(n) for n in node.args[:2])
        return chain.op(name, x, y, dtype="bool")

    return build


def softplus(node: Node, chain: Chain) -> Value:
    beta, threshold = float(argument(node, 1, "beta", 1)), float(argument(node, 2, "threshold", 20))
    dtype = result_dtype(node)
    x = chain.node(node.args[0])
    scaled = x if beta == 1 else chain.op("mul", x, chain.constant(beta, dtype), dtype=dtype)
    soft = chain.op("log1p", chain.op("exp", scaled, dtype=dtype), dtype=dtype)
    soft = soft if beta == 1 else chain.op("div", soft, chain.constant(beta, dtype), dtype=dtype)
    large = chain.op("gt", scaled, chain.constant(threshold, dtype), dtype="bool")
    return chain.op("where", large, x, soft, dtype=dtype)


def quantize(node: Node, chain: Chain) -> Value:
    x, *numbers = node.args
    return chain.op("quantize", chain.cast(chain.node(x), "float32"), dtype="int8", parameters=tuple(numbers))


def dequantize(node: Node, chain: Chain) -> Value:
    x, *numbers = node.args
    return chain.op("dequantize", chain.node(x), dtype="float32", parameters=tuple(numbers))


def quantized_add(node: Node, chain: Chain) -> Value:
    a, b, a_scale, a_zero, b_scale, b_zero, y_scale, *rest = node.args
    numbers = (a_zero, b_zero, a_scale / y_scale, b_scale / y_scale, *rest)
    return chain.op("quantized_add", chain.node(a), chain.node(b), dtype="int8", parameters=numbers)


QUANTIZED = (fxpress.quantize.default, fxpress.quantized_add.default)  # give int8, which is held with a bias
QUANTIZED_CHECKS: dict[Any, Check] = {
    fxpress.quantize.default: check_quantized(x=torch.float32),
    fxpress.dequantize.default: check_quantized(x=torch.int8),
    fxpress.quantized_add.default: check_quantized(a=torch.int8, b=torch.int8),
}

BUILDERS: dict[Any, Builder] = {
    **_builders(),
    fxpress.quantize.default: quantize,
    fxpress.dequantize.default: dequantize,
    fxpress.quantized_add.default: quantized_add,
    aten.rsub.Scalar: binary("sub", flipped=True),
    aten.rsub.Tensor: binary("sub", flipped=True),
    aten.div.Tensor_mode: divide_with_mode,
    aten.div.Scalar_mode: divide_with_mode,
    aten.pow.Tensor_Scalar: power,
    aten.pow.Tensor_Tensor: binary("pow"),
    aten.pow.Scalar: power_of_scalar,
    aten.where.self: select_where,
    aten.where.ScalarSelf: select_where,
    aten.where.ScalarOther: select_where,
    aten.where.Scalar: select_where,
    aten.masked_fill.Scalar: masked_fill,
    aten.masked_fill.Tensor: masked_fill,
    aten.clamp.default: clamp,
    aten.clamp.Tensor: clamp,
    aten.clamp_min.default: binary("maximum"),
    aten.clamp_max.default: binary("minimum"),
    aten.hardtanh.default: hardtanh,
    aten.gelu.default: gelu,
    aten.leaky_relu.default: leaky_relu,
    aten.elu.default: elu,
    aten.softplus.default: softplus,
    aten.prelu.default: prelu,
    aten._to_copy.default: cast,
    aten.to.dtype: cast,
    aten.type_as.default: cast,
    aten.full.default: full,
    aten.full_like.default: full,
    aten.zeros.default: filled_with(0),
    aten.zeros_like.default: filled_with(0),
    aten.ones.default: filled_with(1),
    aten.ones_like.default: filled_with(1),
    aten.new_zeros.default: filled_with(0),
    aten.new_ones.default: filled_with(1),
    aten.scalar_tensor.default: scalar_tensor,
    aten.arange.default: arange,
    aten.arange.start: arange,
    aten.arange.start_step: arange,
    aten.tril.default: triangle("le"),
    aten.triu.default: triangle("ge"),
    aten.addcmul.default: multiply_add("mul"),
    aten.addcdiv.default: multiply_add("div"),
    aten.lerp.Scalar: lerp,
    aten.lerp.Tensor: lerp,
    aten.nan_to_num.default: nan_to_num,
}

RULES: dict[Any, OpRule] = {op: OpRule(lower, check) for op in BUILDERS}
