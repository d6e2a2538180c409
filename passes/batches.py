"""Batches of another size than that of the capture: which Programs allow them, and what changes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..printer import print_type
from ..program import Program

aten = torch.ops.aten

Batch = tuple[int, int]
"""The size of a batch, and that of the capture; (1, 1) where they are the same."""
Run = Callable[[Sequence[Tensor], Batch], Sequence[Tensor]]

SIZED = (aten.reshape.default, aten.expand.default)
"""Ops that are told sizes, the first of which may be that of the batch."""
AGREEMENT = 0.05
"""How far two results of a batch of two may be from those of two batches of one: float rounding may move an integer."""

OTHER_BATCH = (
    "inputs must have the batch size of the capture: not every value of this Program has the batch first; "
    "capture the model with the batch size of the training"
)


class Batches:
    """What sizes a Program's batches have. Whether it allows others is checked once, on its example inputs."""

    def __init__(self, program: Program) -> None:
        self._examples = program.example_inputs
        self._is_batch_first = False

    def of(self, inputs: Sequence[Tensor], run: Run) -> Batch:
        """The batch that `inputs` are. `run` computes the Program's flat results, always in the same way.

        Raises InvalidInput for inputs that differ from the examples in more than the size of the batch, and where the
        Program's results for another batch would not be those of its parts.
        """
        shapes = [(tuple(x.shape), tuple(example.shape)) for x, example in zip(inputs, self._examples, strict=True)]
        if all(found == wanted for found, wanted in shapes):
            return 1, 1
        ratios = {(found[:1], wanted[:1]) for found, wanted in shapes}
        if len(ratios) != 1 or any(found[1:] != wanted[1:] for found, wanted in shapes):
            wanted_types = ", ".join(print_type(example) for example in self._examples)
            found_types = ", ".join(print_type(x) for x in inputs)
            raise InvalidInput(f"inputs must be {wanted_types} but for one size of batch, not {found_types}")
        ((found, wanted),) = ratios
        if not self._is_batch_first:
            self._check(run, inputs)
            self._is_batch_first = True
        return found[0], wanted[0]

    def _check(self, run: Run, inputs: Sequence[Tensor]) -> None:
        """Raise InvalidInput when two example inputs as one batch do not give the two results."""
        examples = [example.to(x.device) for example, x in zip(self._examples, inputs, strict=True)]
        with torch.no_grad():
            once = run(examples, (1, 1))
            try:
                twice = run([torch.cat([x, x]) for x in examples], (2, 1))
            except (RuntimeError, ValueError, IndexError) as error:  # what ops raise for shapes that do not fit
                raise InvalidInput(OTHER_BATCH) from error
        if not all(_agree(torch.cat([y, y]), yy) for y, yy in zip(once, twice, strict=True)):
            raise InvalidInput(OTHER_BATCH)


def sizes_of(sizes: list[int], batch: Batch) -> list[int]:
    """What one of SIZED is told in a batch instead of `sizes`."""
    found, wanted = batch
    if found == wanted or not sizes or sizes[0] < 1:
        return sizes
    if sizes[0] * found % wanted:
        raise InvalidInput(f"the batch must be a multiple of that of the capture, {wanted}, not {found}")
    return [sizes[0] * found // wanted, *sizes[1:]]


def _agree(wanted: Tensor, found: Tensor) -> bool:
    if wanted.shape != found.shape:
        return False
    return bool((wanted.double() - found.double()).norm() <= AGREEMENT * wanted.double().norm())
