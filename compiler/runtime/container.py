"""The `.fxp` file: one zip of stored, 64-byte aligned members that the manifest lists with their SHA-256.

Hashes guard against damage and mix-ups. An artifact holds native code, so a hash inside the file is no defence
against its author: pin the digest of what you trust with `load(expected_digest=...)`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import mmap
import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import InvalidArtifact, InvalidInput

FORMAT = 1
ALIGNMENT = 64
CHUNK = 4 << 20  # bytes of constants under one hash
MANIFEST = "manifest.json"
LIBRARY = "library.so"
FATBIN = "kernels.fatbin"
CONSTANTS = "constants.bin"
SAMPLES = "samples.safetensors"
REPORT_JSON = "report.json"
REPORT_TEXT = "report.txt"
RUNTIME_LIBRARY = "runtime/libtvm_runtime.so"

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REQUIRED = frozenset({MANIFEST, CONSTANTS, SAMPLES})
_CODE = frozenset({LIBRARY, FATBIN})  # an artifact has one of these
_OPTIONAL = frozenset({REPORT_JSON, REPORT_TEXT, RUNTIME_LIBRARY})
_PROGRAM = re.compile(r"programs/(0|[1-9]\d{0,5})\.fxs")
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_LARGEST_MANIFEST = 256 << 20
_ENCRYPTED = 0x1


def program_name(index: int) -> str:
    """The member that holds a program of another device than the CPU."""
    return f"programs/{index}.fxs"


@contextlib.contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A temporary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises InvalidInput when the folder cannot be written to, or its disk is full.
    """
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InvalidInput(f"path must be in a writable folder, not {str(target)!r}: {error}") from error
    try:
        with os.fdopen(handle, "w+b") as file:
            os.fchmod(file.fileno(), 0o644)
            yield file
        os.replace(temporary, target)
    except BaseException as error:
        os.unlink(temporary)
        if is_full(error):
            raise InvalidInput(f"path must be on a disk with room, not {str(target)!r}: {error}; make some") from error
        raise


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk is full."""
    return isinstance(error, OSError) and error.errno in _FULL


@dataclass(frozen=True)
class Member:
    """Where a member's bytes lie in the file."""

    name: str
    offset: int
    size: int
    checksum: int  # the zip's CRC-32


class Container:
    """An open artifact file, mapped read-only: structure, manifest, code and metadata are verified.

    Raises InvalidInput when there is no such file, InvalidArtifact when it is not a well-formed artifact.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._members = _read_members(path, file)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InvalidInput(f"artifact must be a readable file, not {str(path)!r}: {error}") from error
        raw = self._bytes(MANIFEST)
        self.digest = hashlib.sha256(raw).hexdigest()
        self.manifest = _parse_manifest(path, raw)
        self._hashes: Mapping[str, Any] = self.manifest["members"]
        self._check_listing()
        for name in self._members.keys() - {MANIFEST, CONSTANTS}:
            self._verified(name)

    def read(self, name: str) -> bytes:
        """A member's bytes, checked against their hash. Raises InvalidArtifact when they differ."""
        return self._verified(name)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """A member's size in bytes."""
        return self._members[name].size

    def programs(self) -> list[bytes]:
        """The programs of another device, in order, checked against their hashes."""
        names = sorted(filter(_PROGRAM.fullmatch, self._members), key=lambda name: (len(name), name))
        if names != [program_name(index) for index in range(len(names))]:
            raise InvalidArtifact(f"programs of artifact {str(self.path)!r} must be numbered from 0, not {names}")
        return [self.read(name) for name in names]

    def view(self, name: str) -> memoryview:
        """A member's bytes in the mapped file: no copy, shared between processes, not verified."""
        member = self._members[name]
        return memoryview(self._map)[member.offset : member.offset + member.size]

    def forget(self, name: str, size: int) -> None:
        """Give the memory of a member's first `size` bytes back; they are read from the file again if needed."""
        member = self._members[name]
        begin = -(-member.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (member.offset + min(size, member.size)) // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end:
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Copy the file to `path`, whole or not at all; works after the original is gone."""
        with replaced_file(path) as file:
            file.write(self._map)

    def verify_constants(self) -> None:
        """Check the constants against their hashes, chunk by chunk. Raises InvalidArtifact when they differ."""
        view = self.view(CONSTANTS)
        for index, expected in enumerate(self._hashes[CONSTANTS]["sha256"]):
            begin = index * CHUNK
            if hashlib.sha256(view[begin : begin + CHUNK]).hexdigest() != expected:
                raise InvalidArtifact(
                    f"artifact {str(self.path)!r} is damaged: bytes {begin} to {begin + CHUNK} of {CONSTANTS} "
                    "do not have the SHA-256 of the manifest; copy the file again"
                )

    def _bytes(self, name: str) -> bytes:
        data = bytes(self.view(name))
        if zlib.crc32(data) != self._members[name].checksum:
            raise InvalidArtifact(f"artifact {str(self.path)!r} is damaged: {name} has another checksum; copy it again")
        return data

    def _verified(self, name: str) -> bytes:
        data = self._bytes(name)
        if hashlib.sha256(data).hexdigest() != self._hashes[name]["sha256"]:
            raise InvalidArtifact(
                f"artifact {str(self.path)!r} is damaged: {name} does not have the SHA-256 of the manifest; "
                "copy the file again"
            )
        return data

    def _check_listing(self) -> None:
        listed, present = set(self._hashes), self._members.keys() - {MANIFEST}
        if listed != present:
            raise InvalidArtifact(
                f"artifact {str(self.path)!r} must have the members of its manifest, "
                f"not without {sorted(listed - present)} and with {sorted(present - listed)}"
            )
        for name, entry in self._hashes.items():
            chunks = -(-self._members[name].size // CHUNK)
            match entry:
                case {"size": int(size), "sha256": [*hashes]} if name == CONSTANTS and len(hashes) == chunks:
                    pass
                case {"size": int(size), "sha256": str()} if name != CONSTANTS:
                    pass
                case _:
                    raise InvalidArtifact(
                        f"manifest entry of {name} must have a size and its SHA-256, not {entry!r:.200}"
                    )
            if size != self._members[name].size:
                raise InvalidArtifact(f"member {name} must be {size} bytes as its manifest says, not {self.size(name)}")


def _read_members(path: Path, file: Any) -> dict[str, Member]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            end = archive.start_dir
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        EOFError,
        NotImplementedError,
        struct.error,
        OverflowError,
    ) as error:
        raise InvalidArtifact(
            f"artifact must be a whole .fxp file, not {str(path)!r} ({error}); "
            "it may be truncated or another kind of file"
        ) from error
    members: dict[str, Member] = {}
    for info in infos:
        _check_entry(path, info, members)
        members[info.filename] = _locate(path, file, info, end)
    code = _CODE & members.keys() or {LIBRARY}
    missing = sorted((_REQUIRED | code) - members.keys())
    if missing:
        raise InvalidArtifact(f"artifact {str(path)!r} must have the members {sorted(_REQUIRED)}; missing: {missing}")
    if len(code) > 1:
        raise InvalidArtifact(f"artifact {str(path)!r} must have code for one kind of machine, not {sorted(code)}")
    ordered = sorted(members.values(), key=lambda member: member.offset)
    for first, second in itertools.pairwise(ordered):
        if first.offset + first.size > second.offset:
            raise InvalidArtifact(f"artifact members must not overlap: {first.name} and {second.name}")
    return members


def _check_entry(path: Path, info: zipfile.ZipInfo, members: Mapping[str, Member]) -> None:
    name = info.filename
    if name not in _REQUIRED | _CODE | _OPTIONAL and not _PROGRAM.fullmatch(name):  # so no absolute names, no '..'
        raise InvalidArtifact(f"artifact {str(path)!r} must have no member but an artifact's own, not {name!r:.200}")
    if name in members:
        raise InvalidArtifact(f"artifact {str(path)!r} must have one member {name}, not several")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise InvalidArtifact(f"artifact member {name} must be stored uncompressed")
    if info.flag_bits & _ENCRYPTED:
        raise InvalidArtifact(f"artifact member {name} must not be encrypted")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise InvalidArtifact(f"artifact member {name} must be a regular file, not a link or folder")


def _locate(path: Path, file: Any, info: zipfile.ZipInfo, end: int) -> Member:
    if info.header_offset < 0:
        raise InvalidArtifact(f"artifact {str(path)!r} is damaged: {info.filename} is not where the directory says")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) != _LOCAL_HEADER.size:
        raise InvalidArtifact(f"artifact {str(path)!r} is truncated in {info.filename}")
    signature, *_, name_size, extra_size = _LOCAL_HEADER.unpack(header)
    offset = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
    if signature != b"PK\x03\x04" or file.read(name_size) != info.filename.encode():
        raise InvalidArtifact(f"artifact {str(path)!r} is damaged: {info.filename} is not where the directory says")
    if offset % ALIGNMENT:
        raise InvalidArtifact(f"artifact member {info.filename} must start at a multiple of {ALIGNMENT}, not {offset}")
    if offset + info.file_size > end:
        raise InvalidArtifact(f"artifact {str(path)!r} is truncated or lies about the size of {info.filename}")
    if info.filename == MANIFEST and info.file_size > _LARGEST_MANIFEST:
        raise InvalidArtifact(f"manifest must be at most {_LARGEST_MANIFEST} bytes, not {info.file_size}")
    return Member(info.filename, offset, info.file_size, info.CRC)


def _parse_manifest(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidArtifact(f"manifest of {str(path)!r} must be JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise InvalidArtifact(f"manifest of {str(path)!r} must be a JSON object, not {type(manifest).__name__}")
    if manifest.get("format") != FORMAT:
        raise InvalidArtifact(
            f"artifact format must be {FORMAT}, not {manifest.get('format')!r:.50}; {str(path)!r} was written by "
            f"fxpress {manifest.get('fxpress')!r:.50}: load it with that version, or compile the model again"
        )
    if not isinstance(manifest.get("members"), dict):
        raise InvalidArtifact(f"manifest of {str(path)!r} must list its members")
    return manifest
