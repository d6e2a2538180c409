"""Calibration data: checked item by item, run through a Program once, and again for whoever needs activations."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ...errors import InvalidInput
from ...program import Program
from ...progress import Progress
from ...runtime.container import replaced_file
from ..match import arguments
from .observers import Observer, make_observer
from .scheme import LARGEST_RANGE, Range

GENERATED_ITEMS = 16
CACHE_FORMAT = 1
_log = logging.getLogger("fxpress.quantize")


class Calibration:
    """Items of calibration data for one Program's inputs, which can be run through it as often as needed.

    One item is a tuple or list (the positional arguments), a dict (the keyword arguments) or a tensor (the one
    argument). `count` is how many items to take; without it all. Data that can be iterated only once is kept in
    memory, anything else is read anew for every run. Every item is checked when it is read: InvalidInput names the
    item and what is wrong with it, also when there are none, or fewer than `count`.
    """

    def __init__(
        self,
        data: Iterable[Any],
        program: Program,
        *,
        count: int | None = None,
        progress: Progress | None = None,
        generated: bool = False,
    ) -> None:
        if isinstance(data, Tensor | str | Mapping) or not isinstance(data, Iterable):
            raise InvalidInput(
                f"calibration must be an iterable of inputs, not {type(data).__name__}; put a single input in a list"
            )
        if count is not None and not (isinstance(count, int) and count >= 1):
            raise InvalidInput(f"calibration_items must be a whole number from 1 on, not {count!r}")
        self._data = data
        self._program = program
        self._count = count
        self._progress = progress or (lambda stage: None)
        self._kept: list[Sequence[Tensor]] | None = None
        self._ranges: dict[tuple[Program, str, bool], tuple[dict[str, Range], dict[str, Range]]] = {}
        self.generated = generated

    @staticmethod
    def generate(program: Program, *, progress: Progress | None = None) -> Calibration:
        """Items made up from the example inputs: the example itself, then random numbers with its mean and deviation.

        Integers are drawn from the example's range. Images (four dimensions) are smooth, as photographs are.
        """
        items = [tuple(program.example_inputs)]
        generator = torch.Generator().manual_seed(0)
        while len(items) < GENERATED_ITEMS:
            items.append(tuple(_similar(x, generator) for x in program.example_inputs))
        made = Calibration([], program, progress=progress, generated=True)
        made._kept = list(items)
        return made

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        """The items as flat inputs of the Program, each checked."""
        if self.generated:
            self._check_numbers(self._program.example_inputs, "the example inputs, which stand for calibration data")
        if self._kept is not None:
            yield from self._kept
            return
        source = iter(self._data)
        kept: list[Sequence[Tensor]] | None = [] if source is self._data else None
        number = 0
        while self._count is None or number < self._count:
            try:
                item = next(source)
            except StopIteration:
                break
            inputs = self._check(item, number)
            number += 1
            if kept is not None:
                kept.append(inputs)
            yield inputs
        if number == 0:
            raise InvalidInput("calibration must yield at least one item, not none; a used-up iterator yields nothing")
        if self._count is not None and number < self._count:
            raise InvalidInput(
                f"calibration must yield {self._count} items, as calibration_items says, but ended after {number}"
            )
        if kept is not None:
            self._kept = kept

    def _check(self, item: Any, number: int) -> Sequence[Tensor]:
        args, kwargs = _call_of(item, number)
        try:
            inputs = self._program.signature.bind(args, kwargs)
            self._program.check_inputs(inputs)
        except InvalidInput as error:
            raise InvalidInput(f"calibration item {number}: {error}") from error
        self._check_numbers(inputs, f"calibration item {number}")
        return [x.detach() for x in inputs]

    def _check_numbers(self, inputs: Sequence[Tensor], where: str) -> None:
        """Raise InvalidInput where inputs have no elements, or one of them numbers that are not finite."""
        names = self._program.signature.leaf_names()
        if inputs and not any(x.numel() for x in inputs):
            raise InvalidInput(f"{where}: {names[0]} must have elements, not the shape {list(inputs[0].shape)}")
        for name, x in zip(names, inputs, strict=True):
            if x.is_floating_point() and not bool(x.isfinite().all()):
                raise InvalidInput(f"{where}: {name} must hold finite numbers, not NaN or infinity")

    def digest(self) -> str:
        """A hash of the data's content."""
        sha = hashlib.sha256()
        for inputs in self:
            for x in inputs:
                _hash_tensor(sha, x)
        return sha.hexdigest()

    def replay(
        self, program: Program, nodes: Collection[str], stage: str = "replay"
    ) -> Iterator[dict[str, tuple[tuple[Any, ...], Any]]]:
        """For each item, what the named nodes of `program` were given (by position) and what they returned.

        `program` is any Program with the same inputs: the float one, or the quantised one. One item's values are in
        memory at a time. Raises InvalidInput for a name that is not in `program`.
        """
        known = {node.name for node in program.graph.nodes}
        missing = sorted(set(nodes) - known)
        if missing:
            raise InvalidInput(f"replayed nodes must be in the program, but %{missing[0]} is not")
        recorder = _Recorder(program, nodes)
        for number, inputs in enumerate(self):
            self._progress(f"{stage}: item {number + 1}")
            yield recorder.record(inputs)

    def observe(
        self, program: Program, values: Collection[str], inner: Collection[str] = (), *, observer: str = "min-max",
        symmetric: bool = False, cache: Path | None = None,
    ) -> tuple[dict[str, Range], dict[str, Range]]:  # fmt: skip
        """The ranges of the named nodes' results, and of what the layers `inner` compute before their activation.

        With `cache`, a folder, ranges are stored there under a hash of the program, its constants, the data and the
        observer, and read back when all of them are the same. What was observed before is not observed again. Raises
        InvalidInput where a value is not finite.
        """
        known = self._ranges.setdefault((program, observer, symmetric), ({}, {}))
        missing = [name for name in values if name not in known[0]], [name for name in inner if name not in known[1]]
        if any(missing) or not known[0]:
            new = self._observe(program, *missing, observer, symmetric, cache)
            for seen, found in zip(known, new, strict=True):
                seen |= found
        return {name: known[0][name] for name in values}, {name: known[1][name] for name in inner}

    def _observe(
        self, program: Program, values: Collection[str], inner: Collection[str], observer: str, symmetric: bool,
        cache: Path | None,
    ) -> tuple[dict[str, Range], dict[str, Range]]:  # fmt: skip
        path = None
        if cache is not None:
            key = self._key(program, values, inner, observer, symmetric)
            path = cache / f"ranges-{key}.json"
            found = _read_cache(path, values, inner)
            if found is not None:
                self._progress("calibration from cache")
                return found
        watcher = _Watcher(program, values, inner, observer)
        for number, inputs in enumerate(self):
            self._progress(f"calibration: item {number + 1}")
            watcher.watch(inputs, number)
        found = watcher.ranges(symmetric)
        if path is not None:
            _write_cache(path, found)
        return found

    def _key(
        self, program: Program, values: Collection[str], inner: Collection[str], observer: str, symmetric: bool
    ) -> str:
        sha = hashlib.sha256(program.text().encode())
        for name, tensor in sorted(program.constants.items()):
            sha.update(name.encode())
            _hash_tensor(sha, tensor)
        wanted = [CACHE_FORMAT, observer, symmetric, sorted(values), sorted(inner), self.digest()]
        sha.update(json.dumps(wanted).encode())
        return sha.hexdigest()


class _Recorder(Interpreter):
    def __init__(self, program: Program, nodes: Collection[str]) -> None:
        super().__init__(program.graph_module)
        self.extra_traceback = False  # an error's own words say enough
        self._wanted = set(nodes)
        self._found: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def record(self, inputs: Sequence[Tensor]) -> dict[str, tuple[tuple[Any, ...], Any]]:
        self._found = {}
        with torch.no_grad():
            self.run(*inputs)
        return self._found

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.name in self._wanted:
            self._found[n.name] = (self.fetch_args_kwargs_from_env(n)[0] if n.op == "call_function" else (), result)
        return result


class _Watcher(Interpreter):
    """Runs a Program and shows the wanted values to their observers."""

    def __init__(self, program: Program, values: Collection[str], inner: Collection[str], observer: str) -> None:
        super().__init__(program.graph_module)
        self.extra_traceback = False
        self._values: dict[str, Observer] = {name: make_observer(observer) for name in values}
        self._inner: dict[str, Observer] = {name: make_observer(observer) for name in inner}
        self._item = 0

    def watch(self, inputs: Sequence[Tensor], number: int) -> None:
        self._item = number
        with torch.no_grad():
            self.run(*inputs)

    def ranges(self, symmetric: bool) -> tuple[dict[str, Range], dict[str, Range]]:
        return (
            {name: observer.range(symmetric) for name, observer in self._values.items()},
            {name: observer.range(symmetric) for name, observer in self._inner.items()},
        )

    def run_node(self, n: Node) -> Any:
        if n.name in self._inner:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            names = list(arguments(n))
            args = tuple("none" if name == "activation" else x for name, x in zip(names, args, strict=False))
            self._show(n, self._inner[n.name], n.target(*args, **kwargs))
        result = super().run_node(n)
        if n.name in self._values:
            self._show(n, self._values[n.name], result)
        return result

    def _show(self, node: Node, observer: Observer, value: Tensor) -> None:
        if observer.update(value):
            return
        source = node.meta.get("source", "")
        raise InvalidInput(
            f"%{node.name}{f' ({source})' if source else ''} must be finite to be quantised, but item {self._item} "
            f"of the calibration data makes it NaN, infinite or larger than {LARGEST_RANGE}; leave it in float32 with "
            "ignore=, or change the data"
        )


def _call_of(item: Any, number: int) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(item, Tensor):
        return (item,), {}
    if isinstance(item, Mapping):
        return (), item
    if isinstance(item, tuple | list):
        return tuple(item), {}
    raise InvalidInput(
        f"calibration item {number} must be a tuple (positional arguments), a dict (keyword arguments) or a tensor, "
        f"not {type(item).__name__}"
    )


def _similar(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random tensor with the type, shape, mean and deviation, or the range of integers, of `x`."""
    if x.dtype == torch.bool or x.is_complex() or x.numel() == 0:
        return x
    if not x.is_floating_point():
        low, high = int(x.min()), int(x.max())
        return torch.randint(low, high + 1, x.shape, generator=generator, dtype=torch.int64).to(x.dtype)
    noise = torch.randn(x.shape, generator=generator)
    if x.dim() == 4 and min(x.shape[2:]) >= 16:
        coarse = torch.randn(*x.shape[:2], 7, 7, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=x.shape[2:], mode="bilinear")
        noise = smooth + 0.3 * noise
        noise = (noise - noise.mean()) / noise.std()
    wide = x.double()
    deviation = float(wide.std()) if x.numel() > 1 else 1.0
    return (noise.double() * deviation + float(wide.mean())).to(x.dtype)


def _hash_tensor(sha: Any, x: Tensor) -> None:
    sha.update(f"{x.dtype}{tuple(x.shape)}".encode())
    sha.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _read_cache(
    path: Path, values: Collection[str], inner: Collection[str]
) -> tuple[dict[str, Range], dict[str, Range]] | None:
    """What the file holds; None when it is missing or not what `_write_cache` writes, which is logged."""
    try:
        document = json.loads(path.read_text())
        found = tuple(
            {str(name): (float(low), float(high)) for name, (low, high) in document[part].items()}
            for part in ("values", "inner")
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s holds no ranges and is written anew: %r", path, error)
        return None
    if set(found[0]) != set(values) or set(found[1]) != set(inner):
        _log.warning("%s holds the ranges of other values and is written anew", path)
        return None
    return found[0], found[1]


def _write_cache(path: Path, found: tuple[dict[str, Range], dict[str, Range]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write(json.dumps({"values": found[0], "inner": found[1]}).encode())
