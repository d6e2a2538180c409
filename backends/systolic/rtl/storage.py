"""Storage: memories with one read and one write port, memories of banks shared by units, and queues."""

from __future__ import annotations

from collections.abc import Sequence

from .verilog import Module, Signal, bits_for, constant, select


def memory(width: int, depth: int) -> Module:
    """A memory that answers a read in the next cycle; nobody may read a word in the cycle in which it is written."""
    module = Module(f"systolic_memory_{width}x{depth}", f"{depth} words of {width} bits, one read and one write port.")
    address_bits = bits_for(depth)
    read_address = module.input("read_address", address_bits)
    read_data = module.output_register("read_data", width)
    write = module.input("write")
    write_address = module.input("write_address", address_bits)
    write_data = module.input("write_data", width)
    module.memory("words", width, depth)
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
    word_bits, bank_bits = (words // banks - 1).bit_length(), (banks - 1).bit_length()
    address_bits = bits_for(words)
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

    def of_bank(enable: Signal, address: Signal, index: int) -> str:
        """Whether a port asks for a word of that bank."""
        if banks == 1:
            return str(enable)
        return f"{enable} && {address.part(word_bits, bank_bits)} == {constant(index, bank_bits)}"

    def in_bank(address: Signal) -> Signal:
        """The address of a word in its bank."""
        return address.part(0, word_bits) if word_bits else constant(0, 1)

    def first(conditions: list[str], options: list[Signal]) -> str:
        """The option of the first condition that holds, or the last option."""
        chosen = zip(conditions[:-1], options[:-1], strict=True)
        return "".join(f"{condition} ? {option} : " for condition, option in chosen) + str(options[-1])

    data = []
    for index in range(banks):
        reads = [of_bank(enable, address, index) for enable, address in requests]
        read_places = [in_bank(address) for _, address in requests]
        written = [of_bank(enable, address, index) for enable, address, _ in writes]
        written_places = [in_bank(address) for _, address, _ in writes]
        written_data = [value for _, _, value in writes]
        data.append(module.wire(f"data_{index}", width))
        place_bits = max(1, word_bits)
        module.instance(
            memory(width, words // banks),
            f"bank_{index}",
            read_address=module.wire(f"read_address_{index}", place_bits, first(reads, read_places)),
            read_data=data[-1],
            write=module.wire(f"write_{index}", 1, " || ".join(f"({condition})" for condition in written)),
            write_address=module.wire(f"write_address_{index}", place_bits, first(written, written_places)),
            write_data=module.wire(f"write_data_{index}", width, first(written, written_data)),
        )
    for (_, address), answer, reader in zip(requests, answers, readers, strict=True):
        if banks == 1:
            module.assign(answer, data[0])
            continue
        chosen_bank = module.delay(address.part(word_bits, bank_bits), 1, f"{reader}_bank")
        module.assign(answer, select(chosen_bank, data))
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
    module.memory("entries", width, depth)
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
