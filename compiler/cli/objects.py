"""Objects that command lines and files of options name: `file.py:name` or `package.module:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput


def find_object(what: str, source: str, also: Sequence[str] = ()) -> Any:
    """The object that `source` names. `what` it is to be is told in errors, and what it might be `also`.

    Raises InvalidInput when the text is none of that, and when there is no such file, module or name.
    """
    file, colon, name = source.rpartition(":")
    if not colon or not name.isidentifier():
        *kinds, last = ("file.py:name", "package.module:name", *also)
        raise InvalidInput(f"{what} must be {', '.join(kinds)} or {last}, not {source!r}")
    module = _from_file(what, file) if file.endswith(".py") else _from_module(what, file)
    if not hasattr(module, name):
        public = sorted(x for x, value in vars(module).items() if callable(value) and not x.startswith("_"))
        raise InvalidInput(
            f"{file} must define {name!r}; it defines {', '.join(public) or 'nothing that can be called'}"
        )
    return getattr(module, name)


def _from_file(what: str, file: str) -> Any:
    path = Path(file).resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InvalidInput(f"{what} must be in a file that exists, not {file!r}")
    known = sys.modules.get(path.stem)
    if known is not None and known.__spec__ is not None and known.__spec__.origin == str(path):
        return known  # what one file defines is the same for every option that names it
    sys.path.insert(0, str(path.parent))  # as `python file.py` does, for imports of its neighbours
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _from_module(what: str, name: str) -> Any:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there; something it imports is not
        raise InvalidInput(f"{what} must be in a module that can be imported, not {name!r} ({error})") from error
