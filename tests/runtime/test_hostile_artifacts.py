"""Damaged, hostile and foreign artifacts are refused with an error that says what is wrong."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import fxpress.runtime
import numpy as np
import pytest
from fxpress.errors import InvalidArtifact, InvalidInput

Entry = tuple[str, bytes, dict[str, Any]]  # name, contents, attributes of the zip entry


def entries_of(path: Path) -> list[Entry]:
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info), {}) for info in archive.infolist()]


def pack(path: Path, entries: list[Entry], alignment: int = 64) -> Path:
    """Write a zip whose stored members are aligned, whatever their names and attributes."""
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, data, attributes in entries:
            info = zipfile.ZipInfo(name)
            padding = -(file.tell() + 34 + len(name.encode())) % alignment
            info.extra = struct.pack("<HH", 0xD935, padding) + bytes(padding)
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            archive.writestr(info, data)
    return path


def with_manifest(path: Path, **changes: Any) -> Path:
    """Rewrite the manifest's keys."""
    entries = [
        (name, json.dumps({**json.loads(data), **changes}).encode() if name == "manifest.json" else data, attributes)
        for name, data, attributes in entries_of(path)
    ]
    return pack(path, entries)


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(InvalidArtifact, match=message):
        fxpress.runtime.load(path, **options)


def test_a_repacked_artifact_loads(toy) -> None:
    pack(toy.path, entries_of(toy.path))
    fxpress.runtime.load(toy.path).self_test()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^artifact must be a readable file, not '.*none\.fxp'"):
        fxpress.runtime.load(tmp_path / "none.fxp")


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip" * 100, bytes(5000)])
def test_not_a_zip(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.fxp"
    path.write_bytes(data)
    refused(path, r"^artifact must be a whole \.fxp file, not ")


def test_truncated_anywhere(toy) -> None:
    data = toy.path.read_bytes()
    for size in np.linspace(1, len(data) - 1, 60, dtype=int):
        toy.path.write_bytes(data[:size])
        refused(toy.path, "artifact")


def test_bytes_cut_from_the_middle(toy) -> None:
    data = toy.path.read_bytes()
    for size in (1, 64, 4096):
        toy.path.write_bytes(data[:3000] + data[3000 + size :])
        refused(toy.path, "artifact")


def test_flipped_bytes_are_found_or_harmless(toy) -> None:
    data = toy.path.read_bytes()
    x = toy.inputs()
    positions = np.random.default_rng(3).integers(0, len(data), 400)
    found = 0
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        toy.path.write_bytes(damaged)
        try:
            outputs = fxpress.runtime.load(toy.path)(x)
        except InvalidArtifact:
            found += 1
        else:
            np.testing.assert_allclose(outputs, toy.expected(x), rtol=1e-5)
    assert found > 200


def test_each_member_is_checked(toy) -> None:
    original = entries_of(toy.path)
    for number, (name, data, attributes) in enumerate(original):
        if name == "manifest.json":
            continue
        changed = data[:-1] + bytes([data[-1] ^ 1])
        pack(toy.path, [*original[:number], (name, changed, attributes), *original[number + 1 :]])
        refused(toy.path, rf"{re.escape(name)} do(es)? not have the SHA-256 of the manifest", verify="full")


def test_constants_are_checked_at_the_first_call(toy) -> None:
    entries = [
        (name, bytes(len(data)) if name == "constants.bin" else data, attributes)
        for name, data, attributes in entries_of(toy.path)
    ]
    artifact = fxpress.runtime.load(pack(toy.path, entries))
    for _ in range(2):
        with pytest.raises(InvalidArtifact, match=r"of constants\.bin do not have the SHA-256"):
            artifact(toy.inputs())
    with pytest.raises(InvalidArtifact, match=r"of constants\.bin do not have the SHA-256"):
        artifact.self_test()


@pytest.mark.parametrize("missing", ["library.so", "constants.bin", "manifest.json", "samples.safetensors"])
def test_missing_member(toy, missing: str) -> None:
    pack(toy.path, [entry for entry in entries_of(toy.path) if entry[0] != missing])
    refused(toy.path, rf"must have the members .*; missing: \['{re.escape(missing)}'\]$")


def test_member_that_the_manifest_does_not_list(toy) -> None:
    entries = [*entries_of(toy.path), ("runtime/libtvm_runtime.so", b"code", {})]
    refused(pack(toy.path, entries), r"not without \[\] and with \['runtime/libtvm_runtime.so'\]$")


@pytest.mark.parametrize("name", ["../evil.so", "/etc/evil", "runtime/../../evil", "library.so/", "C:\\evil", "x.txt"])
def test_other_names(toy, name: str) -> None:
    refused(
        pack(toy.path, [*entries_of(toy.path), (name, b"x", {})]), r"must have no member but an artifact's own, not "
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_member(toy) -> None:
    entries = entries_of(toy.path)
    refused(pack(toy.path, [*entries, entries[0]]), rf"must have one member {entries[0][0]}, not several")


def test_symbolic_link(toy) -> None:
    entries = entries_of(toy.path)
    name, _, _ = entries[0]
    link = (name, b"/etc/passwd", {"create_system": 3, "external_attr": 0o120777 << 16})
    refused(pack(toy.path, [link, *entries[1:]]), rf"artifact member {name} must be a regular file, not a link")


def test_zip_bomb(toy) -> None:
    entries = [
        (name, bytes(50 << 20), {"compress_type": zipfile.ZIP_DEFLATED}) if name == "constants.bin" else (name, data, a)
        for name, data, a in entries_of(toy.path)
    ]
    refused(pack(toy.path, entries), r"^artifact member constants\.bin must be stored uncompressed$")


def test_sizes_that_lie(toy) -> None:
    data = bytearray(toy.path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # of the last member in the directory, the manifest
    huge = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    data[entry + 20 : entry + 28] = huge
    toy.path.write_bytes(data)
    refused(toy.path, r"is truncated or lies about the size of manifest\.json")


def test_unaligned_member(toy) -> None:
    refused(pack(toy.path, entries_of(toy.path), alignment=1), r"must start at a multiple of 64, not \d+$")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_unknown_format(toy, version: object) -> None:
    refused(with_manifest(toy.path, format=version), r"^artifact format must be 1, not .*load it with that version")


def test_manifest_that_is_not_json(toy) -> None:
    for text in (b"{", b"[]", b"\xff\xfe", b"[" * 200_000, b"3"):
        entries = [(n, text if n == "manifest.json" else data, a) for n, data, a in entries_of(toy.path)]
        refused(pack(toy.path, entries), r"^manifest of .* must be (a )?JSON")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": {}}, "must have the members of its manifest"),
        ({"members": None}, "must list its members"),
        ({"memory": {"arena": -1, "derived": 0, "constants": 256}}, "'arena' must be a non-negative integer, not -1"),
        ({"memory": {"arena": 0, "derived": 0, "constants": 128}}, "constants must be 128 bytes"),
        ({"calls": "2"}, "'calls' must be a non-negative integer, not '2'"),
        ({"signature": {"positional": []}}, "signature must have positional, args and kwargs"),
        ({"inputs": []}, "manifest must have 1 inputs, not 0"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}]}, "tensor spec must have"),
        ({"inputs": [{"name": "x", "dtype": "object", "shape": [1]}]}, "dtype must be one of .*, not 'object'"),
        ({"outputs": {"kind": "code"}}, "structure must have a kind"),
        ({"host_calls": [3]}, "host call must have"),
        ({"samples": 1}, "'samples' must be a dict"),
        ({"tolerances": ["a"]}, "'tolerances' must be a list of numbers"),
    ],
)
def test_wrong_manifest_entries(toy, changes: dict[str, Any], message: str) -> None:
    refused(with_manifest(toy.path, **changes), message)


def test_missing_cpu_feature(write_toy) -> None:
    refused(
        write_toy(features=["avx2", "avx9000"]).path,
        r"needs CPU features that this machine lacks: avx9000; compile the model on this machine",
    )


def test_other_architecture(write_toy) -> None:
    refused(write_toy(machine="aarch64").path, r"^this artifact was compiled for aarch64 and cannot run on \w+; ")


def test_expected_digest(toy, write_toy) -> None:
    digest = fxpress.runtime.load(toy.path).digest
    assert fxpress.runtime.load(toy.path, expected_digest=digest).digest == digest
    refused(toy.path, r"must have the digest 0+, not [0-9a-f]{64}", expected_digest="0" * 64)
    other = write_toy("other.fxp", pipeline="another")
    refused(other.path, "it is not the file that was pinned", expected_digest=digest)


def test_library_without_the_entry_points(toy, tmp_path: Path) -> None:
    refused(_with_library(toy.path, b"not a library"), "code of the artifact must be a loadable shared library")


def _with_library(path: Path, code: bytes) -> Path:
    import hashlib

    entries = {name: data for name, data, _ in entries_of(path)}
    manifest = json.loads(entries["manifest.json"])
    manifest["members"]["library.so"] = {"size": len(code), "sha256": hashlib.sha256(code).hexdigest()}
    entries |= {"library.so": code, "manifest.json": json.dumps(manifest).encode()}
    return pack(path, [(name, data, {}) for name, data in entries.items()])
