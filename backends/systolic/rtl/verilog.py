"""A small typed emitter of Verilog-2005: signals know their widths, instances are checked, the rest is plain text.

Behaviour is written as Verilog text; what goes wrong silently in Verilog does not here: a name declared twice or
reserved, a port that is missing or has another width, a part outside its signal.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from ....errors import InternalError

INDENT = "  "
# the words of Verilog-2005 and SystemVerilog that one might take for names
RESERVED = frozenset(
    "always and assign automatic begin bit break buf byte case cell checker class clocking config const constraint "
    "context continue cover deassign default define design disable do edge else end endmodule enum event expect "
    "export extends final first_match for force forever fork function generate genvar global if import initial inout "
    "input inside instance int integer interface join large let liblist library local localparam logic longint "
    "macromodule matches medium modport module nand negedge new nor not null or output package packed parameter "
    "posedge primitive priority program property protected pull pure rand real realtime ref reg reject release repeat "
    "restrict return scalared sequence shortint signed small solve specify static string strong struct super supply "
    "table tagged task this time timeprecision timeunit type typedef union unique unsigned use var vectored virtual "
    "void wait wand weak while wildcard wire with within wor xnor xor".split()
)


@dataclass(frozen=True)
class Signal:
    """A net, a part of one, or an expression: Verilog text of a known width in bits."""

    text: str
    width: int
    signed: bool = False

    def __str__(self) -> str:
        return self.text

    def part(self, low: int, width: int) -> Signal:
        """Bits `low` to `low + width - 1` of a named signal."""
        if not (0 <= low and width > 0 and low + width <= self.width):
            raise InternalError(f"part of {self.text} must lie in its {self.width} bits, not {width} bits from {low}")
        if width == self.width:
            return Signal(self.text, width)
        if width == 1:
            return Signal(f"{self.text}[{low}]", 1)
        return Signal(f"{self.text}[{low + width - 1}:{low}]", width)


def concat(*signals: Signal) -> Signal:
    """`{a, b}`: the first signal takes the highest bits."""
    return Signal("{" + ", ".join(map(str, signals)) + "}", sum(signal.width for signal in signals))


def repeat(signal: Signal, count: int) -> Signal:
    """`{n{a}}`."""
    return Signal(f"{{{count}{{{signal}}}}}", count * signal.width)


def constant(value: int, width: int) -> Signal:
    """`8'd5`; negative values wrap."""
    return Signal(f"{width}'d{value % (1 << width)}", width)


def select(index: Signal, options: Sequence[Signal]) -> str:
    """The option of that number, as a chain of conditions; the last option for numbers beyond."""
    conditions = (f"{index} == {constant(i, index.width)} ? {option} : " for i, option in enumerate(options[:-1]))
    return "".join(conditions) + str(options[-1])


def bits_for(values: int) -> int:
    """How many bits tell `values` things apart, at least one."""
    return max(1, (values - 1).bit_length())


@dataclass
class Module:
    """A module under construction, with an input `clock` if `sequential`. `document` says what it does."""

    name: str
    document: str
    sequential: bool = True
    children: dict[str, Module] = field(default_factory=dict)
    _ports: dict[str, tuple[str, Signal]] = field(default_factory=dict)
    _signals: dict[str, Signal] = field(default_factory=dict)
    _body: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.sequential:
            self.input("clock")

    def _declare(self, name: str, width: int, signed: bool) -> Signal:
        if name in self._signals or name in RESERVED or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise InternalError(f"name in module {self.name} must be new and legal, not {name!r}")
        if width < 1:
            raise InternalError(f"width of {self.name}.{name} must be positive, not {width}")
        signal = self._signals[name] = Signal(name, width, signed)
        return signal

    def __getitem__(self, name: str) -> Signal:
        """The signal of that name. Raises InternalError when it is not declared (yet)."""
        if name not in self._signals:
            raise InternalError(f"signal {name} must be declared in module {self.name} before it is used")
        return self._signals[name]

    def input(self, name: str, width: int = 1, *, signed: bool = False) -> Signal:
        """Declare an input."""
        signal = self._declare(name, width, signed)
        self._ports[name] = ("input wire", signal)
        return signal

    def output(self, name: str, width: int = 1, value: Signal | str | None = None, *, signed: bool = False) -> Signal:
        """Declare an output that is a net, driven by `value` or by an instance."""
        signal = self._declare(name, width, signed)
        self._ports[name] = ("output wire", signal)
        if value is not None:
            self.assign(signal, value)
        return signal

    def output_register(self, name: str, width: int = 1, *, signed: bool = False) -> Signal:
        """Declare an output that is a register."""
        signal = self._declare(name, width, signed)
        self._ports[name] = ("output reg", signal)
        return signal

    def wire(self, name: str, width: int = 1, value: Signal | str | None = None, *, signed: bool = False) -> Signal:
        """Declare a net, driven by `value` or by an instance."""
        signal = self._declare(name, width, signed)
        driver = "" if value is None else f" = {self._driver(signal, value)}"
        self._body.append(f"wire {_shape(signal)}{name}{driver};")
        return signal

    def register(self, name: str, width: int = 1, *, signed: bool = False) -> Signal:
        """Declare a register."""
        signal = self._declare(name, width, signed)
        self._body.append(f"reg {_shape(signal)}{name};")
        return signal

    def memory(self, name: str, width: int, depth: int) -> None:
        """Declare an array of `depth` registers. What a read gives of a word that is being written is left open."""
        self._declare(name, width, False)
        self._body.append(f"(* no_rw_check *) reg [{width - 1}:0] {name} [0:{depth - 1}];")

    def _driver(self, signal: Signal, value: Signal | str) -> str:
        if isinstance(value, Signal) and value.width != signal.width:
            raise InternalError(
                f"{self.name}.{signal} has {signal.width} bits and cannot be driven by {value.width} bits: {value}"
            )
        return str(value)

    def assign(self, signal: Signal, value: Signal | str) -> None:
        """Drive a net."""
        self._body.append(f"assign {signal} = {self._driver(signal, value)};")

    def ports(self, direction: str) -> list[Signal]:
        """The ports whose direction is `input` or `output`, in order."""
        return [signal for kind, signal in self._ports.values() if kind.startswith(direction)]

    def comment(self, text: str) -> None:
        """Say why, above what follows."""
        self._body.append("")
        self._body += [f"// {line}" for line in textwrap.wrap(text, 110)]

    def text(self, verilog: str) -> None:
        """Add Verilog as it is."""
        self._body += textwrap.dedent(verilog).strip("\n").splitlines()

    def clocked(self, verilog: str) -> None:
        """Statements at every rising edge of the clock."""
        self._body.append("always @(posedge clock) begin")
        self._body += textwrap.indent(textwrap.dedent(verilog).strip("\n"), INDENT).splitlines()
        self._body.append("end")

    def delay(self, signal: Signal, cycles: int, name: str, *, reset: bool = False) -> Signal:
        """`signal` that many cycles later, through a shift register of that name, which the input `reset` may clear."""
        if cycles == 0:
            return self.wire(name, signal.width, signal, signed=signal.signed)
        if cycles == 1:
            last = line = self.register(name, signal.width, signed=signal.signed)
            moved = str(signal)
        else:
            line = self.register(f"{name}_line", signal.width * cycles)
            last = self.wire(name, signal.width, line.part(0, signal.width), signed=signal.signed)
            moved = str(concat(Signal(str(signal), signal.width), line.part(signal.width, line.width - signal.width)))
        clear = "" if not reset else f"if ({self['reset']}) {line} <= {constant(0, line.width)}; else "
        self._body.append(f"always @(posedge clock) {clear}{line} <= {moved};")
        return last

    def instance(self, module: Module, name: str, **connections: Signal | None) -> None:
        """Place a module. `clock` is connected by itself; None leaves an output open."""
        self._declare(name, 1, False)
        expected = module._ports.keys() - {"clock"}
        if expected != connections.keys():
            difference = sorted(expected ^ connections.keys())
            raise InternalError(f"connections of {module.name} in {self.name} must be its ports; check {difference}")
        lines = [f"{module.name} {name} ("]
        for port, (_, signal) in module._ports.items():
            wire = self["clock"] if port == "clock" else connections[port]
            if wire is not None and wire.width != signal.width:
                raise InternalError(
                    f"port {port} of {module.name} has {signal.width} bits, not {wire.width}: {wire} in {self.name}"
                )
            lines.append(f"{INDENT}.{port}({'' if wire is None else wire}),")
        lines[-1] = lines[-1][:-1]
        self._body += [*lines, ");"]
        known = self.children.setdefault(module.name, module)
        if known is not module and known.verilog() != module.verilog():
            raise InternalError(f"module {module.name} must be one thing, not two")

    def verilog(self) -> str:
        """The module as Verilog-2005."""
        ports = ",\n".join(f"{INDENT}{kind} {_shape(signal)}{signal}" for kind, signal in self._ports.values())
        comment = "\n".join(f"// {line}" for line in textwrap.wrap(self.document, 110))
        body = "\n".join(f"{INDENT}{line}" if line else "" for line in self._body)
        return f"{comment}\nmodule {self.name} (\n{ports}\n);\n{body}\nendmodule\n"

    def design(self) -> dict[str, str]:
        """File name -> text of this module and all below it, the lowest first."""
        files: dict[str, str] = {}
        for child in self.children.values():
            for name, text in child.design().items():
                if files.setdefault(name, text) != text:
                    raise InternalError(f"module file {name} must be one thing, not two")
        return files | {f"{self.name}.v": self.verilog()}


def _shape(signal: Signal) -> str:
    return ("signed " if signal.signed else "") + (f"[{signal.width - 1}:0] " if signal.width > 1 else "")
