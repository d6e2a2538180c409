"""Ops that a captured Program holds as compositions of simpler ones, where PyTorch has no such decomposition.

Each function has the signature of its op. One that returns NotImplemented leaves the op whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions

aten = torch.ops.aten
Result = Any  # what the op returns, or NotImplemented


def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Result:
    """Indices with a slice between them: PyTorch puts their dims first, so permute the indexed dims there."""
    places = [i for i, index in enumerate(indices) if index is not None]
    if any(index is not None and index.dtype == torch.bool for index in indices) or not _apart(places):
        return NotImplemented
    others = [d for d in range(x.dim()) if d not in places]
    return aten.index.Tensor(x.permute(*places, *others), [indices[i] for i in places])


def _apart(places: Sequence[int]) -> bool:
    return list(places) != list(range(places[0], places[0] + len(places)))


def _index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Result:
    """A mask becomes torch.where; integers get the indices of the dims that are not indexed, so that all are."""
    places = [i for i, index in enumerate(indices) if index is not None]
    given: list[Tensor] = [index for index in indices if index is not None]
    if any(index.dtype == torch.bool for index in given):
        return _masked_put(x, places[0], given, values, accumulate)
    if len(given) == x.dim():
        return NotImplemented
    shape = torch.broadcast_shapes(*(index.shape for index in given))  # type: ignore[no-untyped-call]
    before = [] if _apart(places) else list(range(places[0]))
    after = [d for d in range(x.dim()) if d not in places and d not in before]
    sizes = [*(x.shape[d] for d in before), *shape, *(x.shape[d] for d in after)]
    whole: dict[int, Tensor] = {d: i.reshape(*i.shape, *[1] * len(after)) for d, i in zip(places, given, strict=True)}
    positions = [*range(len(before)), *range(len(before) + len(shape), len(sizes))]
    for d, position in zip([*before, *after], positions, strict=True):
        numbers = torch.arange(x.shape[d], device=x.device)
        whole[d] = numbers.reshape(-1, *[1] * (len(sizes) - 1 - position))
    return aten.index_put.default(x, [whole[d] for d in range(x.dim())], values.expand(sizes), accumulate)


def _masked_put(x: Tensor, first: int, given: Sequence[Tensor], values: Tensor, accumulate: bool) -> Result:
    """Only values that are the same for every element the mask picks: others have a size that depends on the mask."""
    rest = x.dim() - first - given[0].dim()
    if values.dim() == rest + 1 and values.shape[0] == 1:
        values = values.squeeze(0)
    if len(given) > 1 or (values.dim() > rest and values.numel() != 1):
        return NotImplemented
    values = (values.reshape(()) if values.numel() == 1 else values).to(x.dtype)
    mask = given[0].reshape(*given[0].shape, *[1] * rest)
    return torch.where(mask, x + values if accumulate else values, x)


def _masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The n-th true element takes the n-th of the source."""
    mask, x = torch.broadcast_tensors(mask, x)  # type: ignore[no-untyped-call]
    numbers = mask.reshape(-1).cumsum(0) - 1
    taken = source.reshape(-1)[numbers.clamp(0, source.numel() - 1)]
    return torch.where(mask, taken.reshape(x.shape), x)


def _put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    flat = x.reshape(-1).index_put((index.reshape(-1),), source.reshape(-1), accumulate)
    return flat.reshape(x.shape)


def _scatter_value(x: Tensor, dim: int, index: Tensor, value: float) -> Tensor:
    return x.scatter(dim, index, torch.full(index.shape, value, dtype=x.dtype, device=x.device))


def _scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Result:
    """A mean is a sum divided by a count; what does not count itself starts from the neutral element."""
    if reduce == "mean":
        if not x.is_floating_point():
            return NotImplemented
        total = x.scatter_reduce(dim, index, source, "sum", include_self=include_self)
        start = torch.ones_like(x) if include_self else torch.zeros_like(x)
        count = start.scatter_add(dim, index, torch.ones_like(source))
        return total / count.clamp(min=1)
    if include_self:
        return x.scatter_add(dim, index, source) if reduce == "sum" else NotImplemented
    if x.is_floating_point():
        low, high = -math.inf, math.inf
    else:
        low, high = torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max
    neutral = {"sum": 0, "prod": 1, "amax": low, "amin": high}[reduce]
    return x.scatter(dim, index, neutral).scatter_reduce(dim, index, source, reduce)


def _vector_norm(
    x: Tensor,
    ord: float = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Result:
    """Orders that have no reduction of their own."""
    if ord in (1, 2, math.inf) or x.is_complex():
        return NotImplemented
    x = x if dtype is None else x.to(dtype)
    dims = list(range(x.dim())) if dim is None else list(dim)
    if ord == 0:
        return (x != 0).to(x.dtype).sum(dims, keepdim)
    if ord == -math.inf:
        return x.abs().amin(dims, keepdim)
    return (x.abs() ** ord).sum(dims, keepdim) ** (1 / ord)


def _cdist(x: Tensor, y: Tensor, p: float, compute_mode: int | None) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)
    return distances


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """One logsumexp for every end: a running one would have to rescale at each new maximum."""
    if x.dim() == 0:
        return x.clone()
    last = x.movedim(dim, -1)
    upto = torch.ones(last.shape[-1], last.shape[-1], dtype=torch.bool, device=x.device).tril()
    return torch.where(upto, last.unsqueeze(-2), -math.inf).logsumexp(-1).movedim(-1, dim)


def _running_extreme(lowest: bool) -> Callable[[Tensor, int], Result]:
    """cummax or cummin: for every end the extreme so far and, of several, the last."""

    def running(x: Tensor, dim: int) -> Result:
        if x.dim() == 0 or not x.is_floating_point():
            return NotImplemented
        last = x.movedim(dim, -1)
        count = last.shape[-1]
        backwards = last.flip(-1).unsqueeze(-2)  # the first of equals is then the last
        upto = torch.ones(count, count, dtype=torch.bool, device=x.device).triu().flip(0)
        outside = math.inf if lowest else -math.inf
        seen = torch.where(upto, backwards, outside)
        found = seen.argmin(-1) if lowest else seen.argmax(-1)
        # where nothing seen is better than what lies outside, the element itself is meant
        ends = torch.arange(count, device=x.device)
        extreme = seen.amin(-1) if lowest else seen.amax(-1)
        index = torch.where(extreme == outside, ends, count - 1 - found)
        return extreme.movedim(-1, dim), index.movedim(-1, dim)

    return running


def _kth_value(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, indices = (y.narrow(dim, k - 1, 1) for y in x.sort(stable=True, dim=dim))
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower of two middle elements, or NaN if there is one: sorting puts it last."""
    values, indices = x.sort(stable=True, dim=dim)
    middle, last = (x.shape[dim] - 1) // 2, x.shape[dim] - 1
    is_nan = values.narrow(dim, last, 1).isnan()
    value, index = (torch.where(is_nan, y.narrow(dim, last, 1), y.narrow(dim, middle, 1)) for y in (values, indices))
    return (value, index) if keepdim else (value.squeeze(dim), index.squeeze(dim))


def _median_of_all(x: Tensor) -> Tensor:
    return _median(x.reshape(-1), 0)[0]


def _search(
    sequence: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """How many elements of the sequence come before x; all of them before NaN."""
    if sorter is not None:
        sequence = sequence.gather(-1, sorter)
    each, x = sequence.unsqueeze(-2) if sequence.dim() > 1 else sequence, x.unsqueeze(-1)
    after = each > x if right or side == "right" else each >= x
    return after.logical_not().sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    return _search(boundaries, x, out_int32=out_int32, right=right)


def _embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows added up (mode 0), averaged (1) or maximised (2) into the bag that each belongs to."""
    starts = offsets[:-1] if include_last_offset else offsets
    bags, count = starts.shape[0], indices.shape[0]
    bag = (torch.arange(count, device=indices.device).unsqueeze(1) >= starts).sum(1) - 1
    rows = weight[indices]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    counted = indices != padding_idx if padding_idx >= 0 else torch.ones_like(indices, dtype=torch.bool)
    into = bag.unsqueeze(1).expand(rows.shape)
    sizes = torch.zeros(bags, dtype=rows.dtype).scatter_add(0, bag, counted.to(rows.dtype)).unsqueeze(1)
    if mode == 2:
        empty = torch.full((bags, rows.shape[1]), -math.inf, dtype=rows.dtype)
        rows = torch.where(counted.unsqueeze(1), rows, -math.inf)
        largest = empty.scatter_reduce(0, into, rows, "amax")
        result = torch.where(sizes == 0, torch.zeros_like(largest), largest)
    else:
        rows = torch.where(counted.unsqueeze(1), rows, 0.0)
        result = torch.zeros(bags, rows.shape[1], dtype=rows.dtype).scatter_add(0, into, rows)
        result = result / sizes.clamp(min=1) if mode == 1 else result
    return result, bag, sizes.squeeze(1).to(indices.dtype), starts


def _trilinear(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Result:
    """nn.Bilinear: x[b, i] weight[o, i, j] y[b, j] as two products."""
    if (list(expand1), list(expand2), list(expand3), list(sumdim)) != ([1, 3], [0], [1, 2], [2, 3]):
        return NotImplemented
    out, ic, jc = weight.shape
    first = (x @ weight.permute(1, 0, 2).reshape(ic, out * jc)).reshape(-1, out, jc)
    return (first @ y.unsqueeze(-1)).squeeze(-1)


def _round_to(x: Tensor, *, decimals: int) -> Tensor:
    power = 10.0 ** abs(decimals)
    return (x * power).round() / power if decimals >= 0 else (x / power).round() * power


def _ldexp(x: Tensor, other: Tensor) -> Tensor:
    return x * torch.pow(2.0, other)


def _inverse_erf(x: Tensor) -> Tensor:
    """As ATen: a rational function of x or of log(1 - |x|), then two steps of Newton's method."""
    z = x * x
    middle = x * _polynomial(z, (-0.140543331, 0.914624893, -1.645349621, 0.886226899))
    middle = middle / _polynomial(z, (0.012229801, -0.329097515, 1.442710462, -2.118377725, 1.0))
    w = torch.sqrt(-torch.log((1 - x.abs()) / 2))
    outer = _polynomial(w, (1.641345311, 3.429567803, -1.624906493, -1.970840454))
    outer = torch.copysign(outer, x) / _polynomial(w, (1.637067800, 3.543889200, 1.0))
    y = torch.where(x.abs() <= 0.7, middle, outer)
    for _ in range(2):
        y = y - (torch.erf(y) - x) / (2 / math.sqrt(math.pi) * torch.exp(-y * y))
    edge = torch.where(x.abs() == 1, torch.copysign(torch.full_like(x, math.inf), x), torch.full_like(x, math.nan))
    return torch.where(x.abs() < 1, y, edge)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """With the highest power's coefficient first."""
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


COMPOSITES: dict[Any, Callable[..., Any]] = {
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten.masked_scatter.default: _masked_scatter,
    aten.put.default: _put,
    aten.scatter.value: _scatter_value,
    aten.scatter_reduce.two: _scatter_reduce,
    aten.linalg_vector_norm.default: _vector_norm,
    aten._cdist_forward.default: _cdist,
    aten.logcumsumexp.default: _logcumsumexp,
    aten.cummax.default: _running_extreme(lowest=False),
    aten.cummin.default: _running_extreme(lowest=True),
    aten.kthvalue.default: _kth_value,
    aten.median.dim: _median,
    aten.median.default: _median_of_all,
    aten.searchsorted.Tensor: _search,
    aten.bucketize.Tensor: _bucketize,
    aten._embedding_bag.default: _embedding_bag,
    aten._embedding_bag_forward_only.default: _embedding_bag,
    aten._trilinear.default: _trilinear,
    aten.round.decimals: _round_to,
    aten.ldexp.Tensor: _ldexp,
    aten.erfinv.default: _inverse_erf,
    aten.grid_sampler_2d.default: decompositions.grid_sampler_2d,
}
