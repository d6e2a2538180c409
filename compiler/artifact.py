"""Write `.fxp` artifacts. The format is defined by `runtime/container.py`, which reads them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from .errors import InternalError
from .runtime.container import (
    ALIGNMENT,
    CHUNK,
    CONSTANTS,
    FORMAT,
    LIBRARY,
    MANIFEST,
    REPORT_JSON,
    REPORT_TEXT,
    RUNTIME_LIBRARY,
    SAMPLES,
    program_name,
    replaced_file,
)
from .runtime.libraries import find_runtime_library
from .runtime.samples import Samples
from .runtime.tensor_file import Array

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date: equal contents make equal files
_ZIP64_EXTRA = 20
_ZIP64_FROM = 1 << 31
_PADDING_ID = 0xD935  # the extra-field id that Android's zipalign uses for padding


def constant_offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where constants of these sizes in bytes lie in the constants member, each 64-byte aligned; and the total."""
    offsets = []
    end = 0
    for size in sizes:
        offsets.append(end)
        end += size + -size % ALIGNMENT
    return offsets, end


def write_artifact(
    path: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    code: bytes,
    constants: Sequence[Array],
    samples: Samples,
    report: Mapping[str, Any] | None = None,
    report_text: str = "",
    *,
    offsets: Sequence[int] | None = None,
    bundle_runtime: bool = False,
    programs: Sequence[bytes] = (),
    code_name: str = LIBRARY,
) -> str:
    """Write an artifact, its code as the member `code_name`, and return its digest.

    `manifest` needs the keys that `runtime/manifest.py` reads; format, machine, members, samples and the size of the
    constants are filled in here. Constants lie at `offsets` bytes (ascending; default: `constant_offsets`). `programs`
    are those of another device, which host calls run.
    The file appears whole or not at all. Raises InvalidInput when it cannot be written.
    """
    sizes = [constant.nbytes for constant in constants]
    if offsets is None:
        offsets, total = constant_offsets(sizes)
    else:
        total = max((offset + size for offset, size in zip(offsets, sizes, strict=True)), default=0)
        total += -total % ALIGNMENT
    with replaced_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        writer = _Writer(file, archive)
        writer.add(code_name, [code])
        writer.add(SAMPLES, [samples.to_bytes()])
        if report is not None:
            writer.add(REPORT_JSON, [_json(report)])
        if report_text:
            writer.add(REPORT_TEXT, [report_text.encode()])
        if bundle_runtime:
            writer.add(RUNTIME_LIBRARY, [find_runtime_library().read_bytes()])
        for index, program in enumerate(programs):
            writer.add(program_name(index), [program])
        writer.add(CONSTANTS, _packed(constants, offsets, total), size=total, chunked=True)
        text = _json(
            {
                **manifest,
                "format": FORMAT,
                "machine": manifest.get("machine", platform.machine()),
                "memory": {**manifest["memory"], "constants": total},
                "samples": samples.to_json(),
                "members": writer.members,
            }
        )
        writer.add(MANIFEST, [text])
    return hashlib.sha256(text).hexdigest()


class _Writer:
    """Adds aligned members to a zip and collects their hashes."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile) -> None:
        self._file = file
        self._archive = archive
        self.members: dict[str, Any] = {}

    def add(
        self, name: str, blocks: Sequence[Any] | Iterator[Any], size: int | None = None, chunked: bool = False
    ) -> None:
        size = sum(map(len, blocks)) if size is None and isinstance(blocks, Sequence) else size
        if size is None:
            raise InternalError(f"the size of member {name} must be known")
        zip64 = size >= _ZIP64_FROM
        info = zipfile.ZipInfo(name, _EPOCH)
        info.external_attr = 0o100644 << 16
        start = self._file.tell() + 30 + len(name.encode()) + (_ZIP64_EXTRA if zip64 else 0)
        padding = -(start + 4) % ALIGNMENT
        info.extra = _PADDING_ID.to_bytes(2, "little") + padding.to_bytes(2, "little") + bytes(padding)
        hashes = _Hashes(CHUNK if chunked else size + 1)
        with self._archive.open(info, "w", force_zip64=zip64) as stream:
            for block in blocks:
                stream.write(block)
                hashes.update(block)
        self.members[name] = {
            "size": size,
            "sha256": hashes.digests() if chunked else hashes.digests(empty=True)[0],
        }


class _Hashes:
    """SHA-256 of each `chunk` bytes of a stream."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._done: list[str] = []
        self._current = hashlib.sha256()
        self._filled = 0

    def update(self, block: Any) -> None:
        view = memoryview(block)
        while len(view):
            part = view[: self._chunk - self._filled]
            self._current.update(part)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == self._chunk:
                self._finish()

    def digests(self, empty: bool = False) -> list[str]:
        if self._filled or (empty and not self._done):
            self._finish()
        return self._done

    def _finish(self) -> None:
        self._done.append(self._current.hexdigest())
        self._current = hashlib.sha256()
        self._filled = 0


def _packed(constants: Sequence[Array], offsets: Sequence[int], total: int) -> Iterator[Any]:
    end = 0
    for constant, offset in zip(constants, offsets, strict=True):
        if offset < end:
            raise InternalError(f"constants must not overlap: one at byte {offset} begins before {end}")
        if offset > end:
            yield bytes(offset - end)
        if constant.nbytes:
            yield np.ascontiguousarray(constant).reshape(-1).view(np.uint8).data
        end = offset + constant.nbytes
    if total > end:
        yield bytes(total - end)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
