"""Cases of fxpress:: ops, arranged in both orders of dimensions: what test_ops.py and test_quantized_ops.py share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from fxpress.ops import fxpress
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

Arguments = tuple[Any, ...]
Case = tuple[str, Callable[[], Arguments]]  # an op, and its arguments with channels first, without channels_last
Formulas = Mapping[str, Callable[..., Any]]


def schema(op: str) -> Any:
    return getattr(fxpress, op).default._schema


def orders(op: str) -> tuple[bool, ...]:
    return (False, True) if str(schema(op)).count("channels_last") else (False,)


def every(cases: Mapping[str, Case]) -> list[tuple[str, bool]]:
    """Each case by name, in each order that its op knows."""
    return [(name, order) for name, (op, _) in cases.items() for order in orders(op)]


def made(case: Case, formulas: Formulas, channels_last: bool) -> tuple[Any, Arguments, Tensor]:
    """The op, its arguments in the order asked for, and what its formula gives."""
    op, arguments = case[0], case[1]()
    expected = torch.as_tensor(formulas[op](*arguments))
    if channels_last:  # all tensors that have the shape of an image: x, and residual when there is one
        images = [i for i, argument in enumerate(schema(op).arguments) if argument.name in ("x", "residual")]
        arguments = tuple(
            a.movedim(1, -1).contiguous() if i in images and a is not None else a for i, a in enumerate(arguments)
        )
        expected = expected.movedim(1, -1)
    if len(orders(op)) > 1:
        arguments = (*arguments, channels_last)
    return getattr(fxpress, op).default, arguments, expected


def check_fake(op: Any, arguments: Arguments) -> None:
    """Its fake must agree with what the op returns in shape, dtype and strides."""
    real = op(*arguments)
    mode = FakeTensorMode()
    with mode:
        fake = op(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments))
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
