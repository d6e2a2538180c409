"""The survey's own experiment, on harder digits: python benchmarks/survey_grid.py --output FILE.json

Menghani, "Efficient Deep Learning", arXiv:2106.08962: one family of convolutional nets, width by width, trained as
they are, with augmentation, and with augmentation and the widest net's logits (Hinton et al., arXiv:1503.02531), each
in float32 and quantised after training to 8 bits. The net is ResNet-10 (`resnet10.py`), the set `cluttered_digits.py`;
every training has the same epochs, by the end of which wide nets know all of their images. Accuracy is of the part that
nothing else sees, by the artifact as it runs. A killed run goes on where it was.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import fxpress
import machine
import torch
import typer
from cluttered_training import THREADS, Data, Ledger, config, judge, seconds_of, write_json
from fxpress.learn import LogitDistillation, train
from fxpress.search.footprint import Footprint, measure_footprints
from onnx_files import cache_directory
from resnet10 import ResNet10
from torch import nn

FORMAT = 1
HERE = Path(__file__).parent
PLAIN, AUGMENTED, TAUGHT = "as it is", "augmented", "augmented, taught"
TEMPERATURE = 4.0


@dataclass(frozen=True)
class Settings:
    """The grid. The last width is the teacher."""

    widths: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75, 1.0)
    epochs: int = 12
    seed: int = 0
    count: int | None = None  # images of each part, None for all


class Grid:
    """Trains and compiles the grid in `folder`, where what was made before is used again."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.data = Data(settings.count)
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(folder / "ledger.json")

    def trained(self, width: float, way: str) -> nn.Module:
        """The net of this width, trained this way: from its checkpoint, where it is there."""
        settings = self.settings
        teacher = self.trained(settings.widths[-1], AUGMENTED) if way == TAUGHT else None
        chosen = config(settings.epochs, settings.seed, augmented=way != PLAIN)
        if teacher is not None:
            chosen = replace(chosen, distill=(LogitDistillation(temperature=TEMPERATURE),))
        batches = self.data.train(self._file(f"{width} {way}", "seconds"))
        checkpoint = self._file(f"{width} {way}", "checkpoint")
        found = train(
            ResNet10(width, settings.seed), batches, chosen, teacher=teacher, checkpoint=checkpoint, threads=THREADS
        )
        return found.model.eval().requires_grad_(False)

    def cases(self) -> list[tuple[str, float, str, str]]:
        """Name, width, way and dtype of every model. The widest has no teacher."""
        widths = self.settings.widths
        return [
            (f"{width} {way} {dtype}", width, way, dtype)
            for way in (AUGMENTED, PLAIN, TAUGHT)
            for width in reversed(widths)
            if not (way == TAUGHT and width == widths[-1])
            for dtype in ("float32", "int8")
        ]

    def run(self, progress: Callable[[str], object] = print) -> dict[str, Any]:
        """Every model's accuracy and footprint, and the seconds that the trainings took together."""
        for name, width, way, dtype in self.cases():
            entry = self.ledger.entry(name, lambda case=(name, width, way, dtype): self._entry(*case))
            progress(f"{name}: {entry['accuracy'][0]:.2%}, {entry['footprint']['size']} bytes")
        return dict(self.ledger.entries)

    def _entry(self, name: str, width: float, way: str, dtype: str) -> dict[str, Any]:
        module = self.trained(width, way)
        calibration = self.data.calibration()
        program = fxpress.capture(module, (calibration[0],))
        if dtype == "int8":
            program = fxpress.quantize(program, calibration=calibration)
        path = self.artifact(name)
        fxpress.compile(program, num_threads=THREADS).save(path)
        quality = judge(path, self.data.test())
        return {
            "width": width,
            "way": way,
            "dtype": dtype,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "accuracy": [quality.value, quality.low, quality.high],
            "footprint": measure_footprints([path], threads=THREADS)[0].to_json(),
        }

    def artifact(self, name: str) -> Path:
        """Where the artifact of a case is."""
        return self._file(name, "fxp")

    def _file(self, name: str, kind: str) -> Path:
        return self.folder / f"{name.replace(', ', '-').replace(' ', '-')}.{kind}"

    def seconds_of(self, width: float, way: str) -> float:
        """What one training took, in seconds of one core."""
        return seconds_of(self._file(f"{width} {way}", "seconds"))

    def seconds(self) -> float:
        """What all trainings took, in seconds of one core."""
        return sum(map(seconds_of, self.folder.glob("*.seconds")))


def kept_grid(settings: Settings) -> Grid:
    """The grid in the cache directory."""
    return Grid(settings, cache_directory() / f"survey-grid-{settings.epochs}-{settings.seed}")


def measure_together(models: dict[str, Path], times: int = 3, seconds: float = 0.3) -> dict[str, dict[str, Any]]:
    """The footprints of all artifacts, measured in turns, so many times; of each the one of median latency."""
    found: dict[str, list[Footprint]] = {name: [] for name in models}
    for _ in range(times):
        measured = measure_footprints(list(models.values()), seconds=seconds, threads=THREADS)
        for name, footprint in zip(models, measured, strict=True):
            found[name].append(footprint)
    return {
        name: sorted(footprints, key=lambda footprint: footprint.latency)[times // 2].to_json()
        for name, footprints in found.items()
    }


def document(settings: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Results with what they were measured on."""
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "settings": asdict(settings),
    } | found


def main(
    epochs: Annotated[int, typer.Option(min=1, help="of each training")] = Settings.epochs,
    output: Annotated[Path, typer.Option(help="the JSON file")] = HERE / "results" / "survey-grid.json",
) -> None:
    """Train, quantise, compile and judge the grid, write JSON."""
    torch.set_num_threads(THREADS)
    settings = Settings(epochs=epochs)
    grid = kept_grid(settings)
    models = grid.run()
    measured = measure_together({name: grid.artifact(name) for name in models})
    entries = {name: entry | {"footprint": measured[name]} for name, entry in models.items()}
    write_json(output, document(settings, {"training_seconds": grid.seconds(), "models": entries}))
    print(f"wrote {output}")


if __name__ == "__main__":
    typer.run(main)
