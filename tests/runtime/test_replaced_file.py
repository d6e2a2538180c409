"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from fxpress.errors import InvalidInput
from fxpress.runtime.container import replaced_file


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left"),
            InvalidInput,
            "path must be on a disk with room, not '.*kept': .*No sp",
        ),
        (OSError(errno.EIO, "broken"), OSError, r"\[Errno 5\] broken"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
    ids=["full disk", "broken disk", "interrupt"],
)
def test_what_was_there_stays(tmp_path: Path, error: BaseException, raised: type[BaseException], message: str) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"before")

    def write() -> None:
        with replaced_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(raised, match=f"^{message}"):
        write()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
