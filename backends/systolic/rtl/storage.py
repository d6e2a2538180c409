"""Storage: memories with one read and one write port, memories of banks shared by units, and queues."""

from __future__ import annotations

from collections.abc import Sequence

from .verilog import Module, Signal, bits_for, constant


def memory(width: int, depth: int) -> Module:
    """A memory that answers a read in the next cycle, with what was there before a write in the same cycle."""
    module = Module(f"systolic_memory_{width}x{depth}", f"{depth} words of {width} bits, one read and one write port.")
    address_bits = bits_for(depth)
    read_address = module.input("read_address", address_bits)
    read_data = module.output_register("read_data", width)
    write = module.input("write")
    write_address = module.input("write_address", address_bits)
    write_data = module.input("write_data", width)
    module.text(f"reg [{width - 1}:0] words [0:{depth - 1}];")
    module.clocked(f"""
        {read_data} <= words[{read_address}];
        if ({write}) words[{write_address}] <= {write_data};
    """)
    return module


def banked_memory(
    name: str, width: int, words: int, banks: int, readers: Sequence[str], writers: Sequence[str]
) -> Module:
    """A memory of equal banks, told apart by the high address bits; units that use different banks do not meet.

    Each reader has the ports `<reader>_read`, `<reader>_read_address` and, a cycle later, `<reader>_read_data`; each
    writer has `<writer>_write`, `<writer>_write_address` and `<writer>_write_data`. No two may use the read port, or
    the write port, of one bank in the same cycle: the dispatcher's locks see to that.
    """
    module = Module(
        name, f"{banks} banks of {words // banks} words of {width} bits for {', '.join([*readers, *writers])}."
    )
    address_bits, bank_bits = bits_for(words), bits_for(words) - bits_for(words // banks)
    word_bits = bits_for(words // banks)
    bank = memory(width, words // banks)
    requests = [
        (module.input(f"{reader}_read"), module.input(f"{reader}_read_address", address_bits)) for reader in readers
    ]
    answers = [module.output(f"{reader}_read_data", width) for reader in readers]
    writes = [
        (
            module.input(f"{writer}_write"),
            module.input(f"{writer}_write_address", address_bits),
            module.input(f"{writer}_write_data", width),
        )
        for writer in writers
    ]

    def here(enable: Signal, address: Signal, index: int) -> str:
        return (
            f"{enable} && {address.part(word_bits, bank_bits)} == {constant(index, bank_bits)}"
            if bank_bits
            else str(enable)
        )

    def choose(options: list[tuple[str, Signal]]) -> str:
        """The signal of the first condition that holds, or the last signal."""
        return "".join(f"{condition} ? {signal} : " for condition, signal in options[:-1]) + str(options[-1][1])

    bank_data = []
    for index in range(banks):
        read = [(here(enable, address, index), address.part(0, word_bits)) for enable, address in requests]
        wrote = [here(enable, address, index) for enable, address, _ in writes]
        read_address = module.wire(f"bank_{index}_read_address", word_bits, choose(read))
        data = module.wire(f"bank_{index}_data", width)
        write = module.wire(f"bank_{index}_write", 1, " || ".join(f"({condition})" for condition in wrote))
        address = choose([(c, w[1].part(0, word_bits)) for c, w in zip(wrote, writes, strict=True)])
        value = choose([(c, w[2]) for c, w in zip(wrote, writes, strict=True)])
        write_address = module.wire(f"bank_{index}_write_address", word_bits, address)
        write_data = module.wire(f"bank_{index}_write_data", width, value)
        module.instance(
            bank,
            f"bank_{index}",
            read_address=read_address,
            read_data=data,
            write=write,
            write_address=write_address,
            write_data=write_data,
        )
        bank_data.append(data)
    for (_, address), answer, reader in zip(requests, answers, readers, strict=True):
        if not bank_bits:
            module.assign(answer, bank_data[0])
            continue
        chosen = module.delay(address.part(word_bits, bank_bits), 1, f"{reader}_bank")
        options = [(f"{chosen} == {constant(i, bank_bits)}", data) for i, data in enumerate(bank_data)]
        module.assign(answer, choose(options))
    return module


def queue(width: int, depth: int) -> Module:
    """A queue whose head is seen from the cycle after its push. Never push when full, nor pop when empty."""
    module = Module(f"systolic_queue_{width}x{depth}", f"A queue of {depth} entries of {width} bits.")
    pointer_bits, count_bits = bits_for(depth), bits_for(depth + 1)
    reset = module.input("reset")
    push = module.input("push")
    value = module.input("value", width)
    pop = module.input("pop")
    module.output("head", width, "entries[first]" if depth > 1 else "entries[0]")
    filled = module.register("filled", count_bits)
    module.output("empty", 1, f"{filled} == {constant(0, count_bits)}")
    module.output("full", 1, f"{filled} == {constant(depth, count_bits)}")
    module.text(f"reg [{width - 1}:0] entries [0:{depth - 1}];")
    last = constant(depth - 1, pointer_bits)
    zero, one = constant(0, pointer_bits), constant(1, pointer_bits)
    first, free = module.register("first", pointer_bits), module.register("free", pointer_bits)
    module.clocked(f"""
        if ({push}) entries[{free}] <= {value};
        if ({reset}) begin
          {filled} <= {constant(0, count_bits)};
          {first} <= {zero};
          {free} <= {zero};
        end else begin
          if ({push} && !{pop}) {filled} <= {filled} + {constant(1, count_bits)};
          if ({pop} && !{push}) {filled} <= {filled} - {constant(1, count_bits)};
          if ({push}) {free} <= {free} == {last} ? {zero} : {free} + {one};
          if ({pop}) {first} <= {first} == {last} ? {zero} : {first} + {one};
        end
    """)
    return module
