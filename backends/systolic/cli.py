"""`fxpress systolic`: what the array does with a model, and what the array is. Each command imports what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ...cli.models import LoadedModel
    from ...program import Program
    from ...target import Target
    from .artifact import SystolicArtifact
    from .report.energy import EnergyTable

app = typer.Typer(
    help="Systolic arrays: costs, instructions and hardware of compiled models; sweeps over arrays.",
    no_args_is_help=True,
)

SHOWN = 4  # names of nodes that are on the CPU for one reason

ArtifactFile = Annotated[
    Path, typer.Argument(metavar="MODEL.fxp", help="A model compiled for a systolic target.", show_default=False)
]
Folder = Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.", show_default=False)]
Energy = Annotated[
    Path | None, typer.Option(help="A table of picojoules, like energy.json of the package.", show_default=False)
]


@app.command()
def report(
    artifact: ArtifactFile,
    html: Annotated[Path | None, typer.Option(help="Write pictures as one self-contained page.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a trace for ui.perfetto.dev; of several programs, the one of --program.")
    ] = None,
    program: Annotated[int, typer.Option(min=0, help="Which program --trace shows.")] = 0,
    energy: Energy = None,
) -> None:
    """Show what a run costs the array: cycles, utilisation, bytes and energy of each layer."""
    from ...cli.formatting import console
    from .report.tables import layer_table, summary

    loaded = _load(artifact)
    performance = loaded.performance(_energy(energy))
    out = console()
    out.print(artifact.name, style="bold")
    for line in summary(performance):
        out.print(f"  {line}")
    out.print("", layer_table(performance), sep="\n")
    for reason, names in _by_reason(loaded.on_cpu).items():
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        out.print(f"on the CPU: {shown}: {reason}", style="yellow")
    if html is not None:
        from .report.plots import page

        _write(html, page(artifact.name, performance, loaded.timelines))
    if trace is not None:
        loaded.trace(trace, program)
        out.print(f"wrote {trace}")


@app.command()
def disassemble(
    artifact: ArtifactFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead.")] = None,
) -> None:
    """Print the instructions of a compiled model, one a line."""
    text = _load(artifact).disassemble()
    if output is None:
        print(text)
    else:
        _write(output, text + "\n")


@app.command()
def verilog(
    machine: Annotated[
        str,
        typer.Argument(
            metavar="TARGET|MODEL.fxp",
            help="A target such as 'systolic{rows=8,cols=8}', or a model that was compiled for one.",
            show_default=False,
        ),
    ],
    output: Folder,
) -> None:
    """Write the machine as Verilog-2005."""
    from ...errors import InvalidInput
    from ...target import Target
    from .export import write_verilog
    from .target import SystolicTarget

    if Path(machine).suffix == ".fxp":
        _print_paths(_load(Path(machine)).verilog(output))
        return
    target = Target.parse(machine)
    if not isinstance(target, SystolicTarget):
        raise InvalidInput(f"target must be a systolic array, such as 'systolic{{rows=8,cols=8}}', not {machine!r}")
    _print_paths(write_verilog(target.architecture, output))


@app.command()
def export(artifact: ArtifactFile, output: Folder) -> None:
    """Write a model's memory images and instructions with a C header that says what lies where."""
    _print_paths(_load(artifact).export(output))


@app.command()
def sweep(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="FILE.program that `fxpress quantize --target systolic` wrote, or a model as for `fxpress compile`, "
            "which is then quantised on generated inputs: cycles do not depend on weights.",
            show_default=False,
        ),
    ],
    rows: Annotated[str, typer.Option(help="Rows of the arrays, with commas.")] = "4,8,16,32",
    columns: Annotated[str, typer.Option("--cols", help="Columns of the arrays, with commas.")] = "8,16,32",
    dataflow: Annotated[str, typer.Option(help="Dataflows, with commas: os, ws, both.")] = "both",
    base: Annotated[str, typer.Option(help="All else of the target.")] = "systolic",
    inputs: Annotated[list[str] | None, typer.Option("--input", help="As for `compile`.", show_default=False)] = None,
    html: Annotated[Path | None, typer.Option(help="Write a picture of latency, area and energy.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
    energy: Energy = None,
) -> None:
    """Compile a model for arrays of many shapes; compare latency, energy and proxies of area."""
    import json as json_module

    from ...cli.formatting import console
    from ...cli.models import load_model
    from ...progress import TerminalProgress
    from ...target import Target
    from .report.sweep import shapes, sweep, sweep_plot, sweep_table
    from .target import SystolicTarget

    target = Target.parse(base)
    if not isinstance(target, SystolicTarget):
        raise typer.BadParameter(f"must be a systolic target, not {base!r}", param_hint="--base")
    architectures = shapes(
        target.architecture, _numbers(rows, "--rows"), _numbers(columns, "--cols"), dataflow.split(",")
    )
    loaded = load_model(model, inputs or [])
    with TerminalProgress() as progress:
        points = sweep(_quantized(loaded, target), architectures, _energy(energy), progress)
    console().print(sweep_table(points))
    if html is not None:
        _write(html, sweep_plot(points).to_html(include_plotlyjs=True))
    if json is not None:
        _write(json, json_module.dumps([point.to_json() for point in points], indent=1) + "\n")


@app.command()
def gemmini(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="FILE.program that `fxpress quantize --config int8-gemmini` wrote, or a model as for `fxpress "
            "compile`, which is then quantised on generated inputs.",
            show_default=False,
        ),
    ],
    output: Folder,
    parameters: Annotated[
        Path | None, typer.Option(help="The array's gemmini_params.h. Default: Gemmini's own.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option(help="Of the files, and of the function NAME_run.")] = "model",
    inputs: Annotated[list[str] | None, typer.Option("--input", help="As for `compile`.", show_default=False)] = None,
    check: Annotated[bool, typer.Option("--check", help="Write a main that compares with an example, too.")] = False,
    host: Annotated[
        bool, typer.Option("--host", help="Write include/, which stands in for Gemmini's library on any machine.")
    ] = False,
) -> None:
    """Write C that runs a model on a Gemmini."""
    from ...cli.models import load_model
    from ...target import Target
    from .export import write_files
    from .gemmini import Parameters, emit, host_model, prepare

    array = Parameters() if parameters is None else Parameters.of_header(_read(parameters))
    program = prepare(_quantized(load_model(model, inputs or []), Target.parse("cpu"), "int8-gemmini"))
    files = emit(program, name=name, parameters=array, check=check) | (host_model(array) if host else {})
    _print_paths(write_files({file: text.encode() for file, text in files.items()}, output))


def _load(path: Path) -> SystolicArtifact:
    from ...errors import InvalidInput
    from ...runtime import load
    from .artifact import SystolicArtifact

    loaded = load(path)
    if not isinstance(loaded, SystolicArtifact):
        raise InvalidInput(
            f"artifact must be compiled for a systolic target, not for {loaded.manifest['target']}; "
            "compile the model with --target systolic"
        )
    return loaded


def _by_reason(lines: list[str]) -> dict[str, list[str]]:
    """Names of nodes by the reason for which they are on the CPU."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, reason = line.partition(": ")
        found.setdefault(reason, []).append(name)
    return found


def _energy(path: Path | None) -> EnergyTable:
    from .report.energy import DEFAULT_TABLE, EnergyTable

    return EnergyTable.load(path or DEFAULT_TABLE)


def _quantized(loaded: LoadedModel, target: Target, config: str | None = None) -> Program:
    """The model as a quantised Program after the default passes."""
    from ...api import as_program
    from ...pass_manager import PassManager
    from ...quantizing import quantize

    program = as_program(loaded.model, loaded.args, loaded.kwargs)
    if not any(str(node.target).startswith("fxpress.quantize") for node in program.nodes):
        program = quantize(program, config, target=target, profitable="off")
    return PassManager("default", target=target).run(program)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"must be numbers with commas, not {text!r}", param_hint=option) from error


def _read(path: Path) -> str:
    from ...errors import InvalidInput

    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"file must be text that can be read, not {str(path)!r}: {error}") from error


def _write(path: Path, text: str) -> None:
    from ...cli.formatting import console
    from ...errors import InvalidInput

    try:
        path.write_text(text)
    except OSError as error:
        raise InvalidInput(f"output must be a file that can be written, not {str(path)!r}: {error}") from error
    console().print(f"wrote {path}")


def _print_paths(paths: list[Path]) -> None:
    from ...cli.formatting import console

    for path in paths:
        console().print(f"wrote {path}")
