"""The explanation as one HTML page that needs nothing else: styles, script and pictures are inside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from jinja2 import Environment, PackageLoader, StrictUndefined

from .explanation import Explanation, Group, Layer
from .pictures import Box, roofline, treemap
from .probe import HOW
from .pruned import sensitivity_plot
from .quantities import bytes_text, percent_text, rate_text, time_text

WIDTH, TREEMAP_HEIGHT, ROOFLINE_HEIGHT, SENSITIVITY_HEIGHT = 1120, 380, 360, 220
_HEADER = 18  # height of a module's title in the treemap
_PARTS, _VISIBLE = 4, 0.02  # the treemap shows at least so many modules of at least this share of the time, if it can
_COLOURS = 10  # of kinds of kernels; the rest share the last one


@dataclass(frozen=True)
class _Module:
    """A part of the model in the treemap."""

    frame: Box[Group]
    boxes: list[Box[int]]  # of layers, by number


def render_page(explanation: Explanation) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=PackageLoader("fxpress.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=bytes_text, percent=percent_text, rate=rate_text, time=time_text)
    kinds = explanation.groups(lambda layer: layer.kind)
    return environment.get_template("page.html").render(
        e=explanation,
        how=HOW,
        kinds=kinds,
        colour={group.name: min(rank, _COLOURS - 1) for rank, group in enumerate(kinds)},
        modules=_modules(explanation),
        roofline=roofline(explanation.layers, explanation.peaks, WIDTH - 140, ROOFLINE_HEIGHT),
        sensitivity=sensitivity_plot(explanation.sensitivity, WIDTH - 140, SENSITIVITY_HEIGHT),
        sensitivity_height=SENSITIVITY_HEIGHT,
        width=WIDTH,
        treemap_height=TREEMAP_HEIGHT,
        roofline_height=ROOFLINE_HEIGHT,
    )


def _modules(explanation: Explanation) -> list[_Module]:
    """A treemap of the model's modules, each filled with its layers."""
    groups = _parts(explanation)
    modules = []
    for frame in treemap([(group, group.seconds) for group in groups], 0, 0, WIDTH, TREEMAP_HEIGHT):
        titled = frame.width > 60 and frame.height > 2 * _HEADER and len(groups) > 1
        top = _HEADER if titled else 0
        weights = [(layer.number, layer.seconds) for layer in frame.item.layers]
        inside = treemap(
            weights, frame.x + 1, frame.y + top, max(frame.width - 2, 0.5), max(frame.height - top - 1, 0.5)
        )
        modules.append(_Module(frame, inside))
    return modules


def _part(depth: int, layer: Layer) -> str:
    return ".".join(layer.module.split(".")[:depth]) or "(model)"


def _parts(explanation: Explanation) -> list[Group]:
    """The layers by module, as deep as needed for some parts that each take a visible share of the time."""
    deepest = max((layer.module.count(".") + 1 for layer in explanation.layers), default=1)
    for depth in range(1, deepest + 1):
        groups = explanation.groups(partial(_part, depth))
        if sum(group.share > _VISIBLE for group in groups) >= _PARTS:
            break
    return groups
