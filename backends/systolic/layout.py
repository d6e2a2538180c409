"""Where the elements of a tensor lie in DRAM, and how the host writes and reads them.

The byte of element (i0, i1, ...) is `address` + the sum of tables[d][i_d]. Permuted, sliced, split and concatenated
values and channels padded to whole words all have this form.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidInput

Bytes = NDArray[np.uint8]
ITEMS: dict[str, np.dtype[Any]] = {"int8": np.dtype("<i1"), "int32": np.dtype("<i4")}


@dataclass(frozen=True)
class Windows:
    """Sliding windows that the host makes of a tensor before it writes it.

    They turn [n, *spatial, c] (or [n, c, *spatial] without `channels_last`) into [n, *positions, *kernel, c]. `padding`
    holds (before, after) for each spatial dim; padded elements are `fill`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    fill: int
    channels_last: bool

    def of(self, x: NDArray[Any]) -> NDArray[Any]:
        """The windows of `x`."""
        x = x if self.channels_last else np.moveaxis(x, 1, -1)
        x = np.pad(x, self._pads(), constant_values=self.fill)
        spans = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        rank = len(self.kernel)
        windows = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(1, rank + 1)))
        steps = [slice(None), *(slice(None, None, s) for s in self.stride), slice(None)]
        windows = windows[(*steps, *(slice(None, None, d) for d in self.dilation))]
        return np.moveaxis(windows, rank + 1, -1)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Windows:
        """What `asdict` gives of windows."""
        kernel, stride, padding, dilation = (
            tuple(int(x) for x in data[name]) for name in ("kernel", "stride", "padding", "dilation")
        )
        return cls(kernel, stride, padding, dilation, int(data["fill"]), bool(data["channels_last"]))

    def _pads(self) -> list[tuple[int, int]]:
        pairs = [(self.padding[i], self.padding[i + 1]) for i in range(0, len(self.padding), 2)]
        return [(0, 0), *pairs, (0, 0)]


@dataclass(frozen=True)
class Layout:
    """A tensor of `shape` in DRAM; `item` is "int8" or "int32", `address` is in bytes.

    With `windows` the host writes the windows of the tensor, and the tables are those of the windows' dims.
    """

    shape: tuple[int, ...]
    item: str
    address: int
    tables: tuple[tuple[int, ...], ...]
    windows: Windows | None = None

    def write(self, dram: Bytes, x: NDArray[Any]) -> None:
        """Put `x` where this layout says. Raises InvalidInput when its shape or dtype is another one."""
        if x.shape != self.shape or x.dtype != ITEMS[self.item]:
            wanted, found = f"{self.item}{list(self.shape)}", f"{x.dtype}{list(x.shape)}"
            raise InvalidInput(f"the value written to DRAM must be {wanted}, not {found}")
        x = x if self.windows is None else self.windows.of(x)
        data = np.ascontiguousarray(x).view(np.uint8).reshape(*x.shape, x.itemsize)
        dram[self._addresses()] = data

    def read(self, dram: Bytes) -> NDArray[Any]:
        """The tensor that DRAM holds here."""
        if self.windows is not None:
            raise InvalidInput("a value written as windows must be read by the array only")
        data = np.ascontiguousarray(dram[self._addresses()])
        return data.view(ITEMS[self.item]).reshape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a program's file."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Layout:
        """What `to_json` wrote. Raises InvalidInput when it is something else."""
        try:
            windows = None if data["windows"] is None else Windows.from_json(data["windows"])
            tables = tuple(tuple(int(x) for x in table) for table in data["tables"])
            shape, item = tuple(int(x) for x in data["shape"]), str(data["item"])
            if item not in ITEMS:
                raise InvalidInput(f"layout item must be one of {sorted(ITEMS)}, not {item!r}")
            return cls(shape, item, int(data["address"]), tables, windows)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"layout must be what Layout.to_json gives, not {str(data)[:80]}") from error

    def _addresses(self) -> NDArray[np.int64]:
        total = np.full((), self.address, np.int64)
        for table in self.tables:
            total = total[..., None] + np.array(table, np.int64)
        return total[..., None] + np.arange(ITEMS[self.item].itemsize)
