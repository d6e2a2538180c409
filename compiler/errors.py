"""Every error fxpress raises on purpose. Messages name the thing, what was expected, what was found and the remedy."""

from __future__ import annotations


class CompilerError(Exception):
    """Base of all errors raised by fxpress."""


class InvalidInput(CompilerError, ValueError):
    """The caller passed something wrong: an option, a shape, a file."""


class CaptureError(InvalidInput):
    """The model could not be traced. Names the user's source line, the cause and the change that fixes it."""


class Diverged(InvalidInput):
    """Training made the loss, or a weight, NaN or infinite. Says at which step, and what to change."""


class Unsupported(CompilerError):
    """The target has no way to run part of the program. Lists all such nodes at once."""


class InvalidProgram(CompilerError):
    """The verifier found a program that breaks an invariant; lists every violation."""


class InternalError(CompilerError):
    """A bug in fxpress. The message says how to report it."""


class BackendUnavailable(CompilerError):
    """Something that must be installed is missing; says what to install."""


class OutOfMemory(CompilerError, MemoryError):
    """A device has less free memory than an artifact needs; says how much it needs."""


class InvalidArtifact(CompilerError):
    """An artifact file is damaged, hostile, from another version, or built for another machine."""
