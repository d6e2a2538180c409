"""Constants as the array reads them: weights in blocks of C x C, grouped ones expanded, and parameter records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..architecture import RECORD_WORDS
from .layers import Convolution, Requantization, Weights


@dataclass(frozen=True, eq=False)
class PackedWeights:
    """data[n][y][x][b][c][j]: the weight from channel c of word low[n] + b to channel j of output block n.

    A dense layer reads all words for every output block; a grouped one reads those of the block's groups.
    """

    data: Weights
    low: NDArray[np.int64]
    dense: bool

    @property
    def depth(self) -> int:
        """Words that an output block reads of each tap."""
        return int(self.data.shape[3])


def pack(layer: Convolution, columns: int) -> PackedWeights:
    """The weights of a layer in blocks of `columns` x `columns`."""
    weight = layer.weight
    oc, depth, ky, kx = weight.shape
    blocks, words = len(layer.output.words), len(layer.source.words)
    places = layer.source.places
    rows = np.arange(oc)
    if layer.groups == 1:
        data = np.zeros((blocks * columns, ky, kx, words * columns), np.int8)
        if len(np.unique(places)) == len(places):
            data[rows[:, None], :, :, places[None, :]] = weight
        else:  # channels that are the same byte: only layers that rearrange channels have them, with few weights
            for channel, place in enumerate(places.tolist()):
                data[:oc, :, :, place] += weight[:, channel]
        packed = data.reshape(blocks, columns, ky, kx, words, columns).transpose(0, 2, 3, 4, 5, 1)
        return PackedWeights(np.ascontiguousarray(packed), np.zeros(blocks, np.int64), True)
    groups = rows // (oc // layer.groups)
    inputs = places[groups[:, None] * depth + np.arange(depth)]  # [oc, ic / groups]: the byte each weight reads
    block = rows // columns
    low = np.array([inputs[block == n].min() // columns for n in range(blocks)])
    high = np.array([inputs[block == n].max() // columns for n in range(blocks)])
    reach = int((high - low).max()) + 1
    low = np.minimum(low, words - reach)
    data = np.zeros((blocks, ky, kx, reach * columns, columns), np.int8)
    local = inputs - low[block][:, None] * columns
    data[block[:, None], :, :, local, (rows % columns)[:, None]] = weight
    packed = data.reshape(blocks, ky, kx, reach, columns, columns)
    return PackedWeights(packed, low, reach == words)


def records(requantization: Requantization, places: NDArray[np.int64], blocks: int, columns: int) -> NDArray[np.uint8]:
    """Parameter records of so many output blocks, [blocks, 16 * C] bytes; lanes without a channel give zero."""

    def lanes(values: NDArray[np.int64], empty: int) -> NDArray[np.int64]:
        spread = np.full(blocks * columns, empty, np.int64)
        spread[places] = values
        return spread.reshape(blocks, columns)

    out = np.zeros((blocks, RECORD_WORDS * columns), np.uint8)
    parts = (requantization.bias, requantization.multiplier, requantization.residual_multiplier)
    for position, values in enumerate(parts):
        data = lanes(values, 0).astype("<i4").view(np.uint8).reshape(blocks, 4 * columns)
        out[:, 4 * columns * position : 4 * columns * (position + 1)] = data
    out[:, 12 * columns : 13 * columns] = lanes(requantization.shift, 1).astype(np.uint8)
    return out
