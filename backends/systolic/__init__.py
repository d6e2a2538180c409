"""A systolic array as a target: an instruction program, what runs it, and the hardware that runs the same program."""
