"""The artifact's metadata, checked before anything relies on it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..cpu import cpu_features
from ..errors import InvalidArtifact
from .host_calls import HostCall
from .signature import Signature
from .structure import Structure, TensorSpec

_DEFAULT_TOLERANCE = 1e-4  # relative to an output's norm; artifacts normally state their own


@dataclass(frozen=True)
class Manifest:
    """What the runtime needs to know; other keys of the JSON are for people and tools.

    `calls` and `prepare_calls` are the number of kernel calls of the library's functions `run` and `prepare`;
    `arena_bytes` is needed per concurrent caller, `derived_bytes` once; the first `load_only_bytes` of the constants
    are read by `prepare` only. `tolerances` has one entry an output.
    """

    target: str
    machine: str
    features: frozenset[str]
    signature: Signature
    inputs: tuple[TensorSpec, ...]
    outputs: Structure
    output_specs: tuple[TensorSpec, ...]
    arena_bytes: int
    derived_bytes: int
    constants_bytes: int
    load_only_bytes: int
    calls: int
    prepare_calls: int
    layers: tuple[dict[str, Any], ...]
    host_calls: tuple[HostCall, ...]
    samples: dict[str, Any]
    tolerances: tuple[float, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Raises InvalidArtifact when a key is absent, of the wrong type, or contradicts another."""
        memory = _typed(data, "memory", dict)
        specs = tuple(map(TensorSpec.from_json, _typed(data, "output_specs", list)))
        manifest = cls(
            target=_typed(data, "target", str),
            machine=_typed(data, "machine", str),
            features=frozenset(map(str, _typed(data, "features", list))),
            signature=Signature.from_json(data.get("signature")),
            inputs=tuple(map(TensorSpec.from_json, _typed(data, "inputs", list))),
            outputs=Structure.from_json(data.get("outputs")),
            output_specs=specs,
            arena_bytes=_size(memory, "arena"),
            derived_bytes=_size(memory, "derived"),
            constants_bytes=_size(memory, "constants"),
            load_only_bytes=_size({"load_only": 0, **memory}, "load_only"),
            calls=_size(data, "calls"),
            prepare_calls=_size(data, "prepare_calls"),
            layers=tuple(_typed(data, "layers", list)),
            host_calls=tuple(map(HostCall.from_json, data.get("host_calls") or [])),
            samples=_typed(data, "samples", dict),
            tolerances=_tolerances(data.get("tolerances", [_DEFAULT_TOLERANCE] * len(specs))),
        )
        for name, found, wanted in (
            ("inputs", len(manifest.inputs), manifest.signature.leaf_count),
            ("output_specs", len(specs), manifest.outputs.leaf_count),
            ("tolerances", len(manifest.tolerances), len(specs)),
        ):
            if found != wanted:
                raise InvalidArtifact(f"manifest must have {wanted} {name}, not {found}")
        return manifest

    def check_machine(self) -> None:
        """Raises InvalidArtifact when this machine cannot run the artifact's code."""
        if platform.machine() != self.machine:
            raise InvalidArtifact(
                f"this artifact was compiled for {self.machine} and cannot run on {platform.machine()}; "
                "compile the model for this machine"
            )
        missing = sorted(self.features - cpu_features())
        if missing:
            raise InvalidArtifact(
                f"this artifact was compiled for {self.target} and needs CPU features that this machine lacks: "
                f"{', '.join(missing)}; compile the model on this machine, or with target='cpu{{isa=avx2}}'"
            )


def _tolerances(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(type(limit) in (int, float) for limit in value):
        raise InvalidArtifact(f"manifest entry 'tolerances' must be a list of numbers, not {value!r:.100}")
    return tuple(map(float, value))


def _typed(data: Mapping[str, Any], key: str, kind: type) -> Any:
    value = data.get(key)
    if not isinstance(value, kind):
        raise InvalidArtifact(f"manifest entry {key!r} must be a {kind.__name__}, not {value!r:.100}")
    return value


def _size(data: Mapping[str, Any], key: str) -> int:
    value = data.get(key)
    if type(value) is not int or value < 0:
        raise InvalidArtifact(f"manifest entry {key!r} must be a non-negative integer, not {value!r:.100}")
    return value
