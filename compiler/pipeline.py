"""Pipelines as text: `"fold-batch-norm,fuse-epilogue{residual=false}"` parses to passes and prints back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

from .errors import InvalidInput
from .registry import kind_of, lookup
from .rewriter import Pass, RulePass


def parse_pipeline(text: str | Pass | Iterable[Pass | str]) -> list[Pass]:
    """Read a pipeline: passes and named pipelines (`default{level=2}`), comma separated, options in braces.

    Raises InvalidInput for a name that is not registered, an unknown option or a value of the wrong type.
    """
    if isinstance(text, Pass):
        return [text]
    if not isinstance(text, str):
        return [p for item in text for p in parse_pipeline(item)]
    passes: list[Pass] = []
    for name, options in _items(text):
        if kind_of(name, "pipelines", "passes") == "pipelines":
            try:
                passes += parse_pipeline(lookup("pipelines", name)(**options))
            except TypeError as error:
                raise InvalidInput(f"pipeline {name} does not take these options: {error}") from error
        else:
            passes.append(_make_pass(name, options))
    return passes


def print_pipeline(passes: Sequence[Pass]) -> str:
    """The text that parses back to these passes."""
    return ",".join(str(p) for p in passes)


def _items(text: str) -> list[tuple[str, dict[str, Any]]]:
    items = []
    position = 0
    pattern = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\{([^{}]*)\})?\s*(,|$)")
    while position < len(text.rstrip()):
        match = pattern.match(text, position)
        if match is None:
            found = text[position : position + 20]
            raise InvalidInput(f"pipeline must look like 'a-pass,another{{option=1}}', not {text!r} (at {found!r})")
        items.append((match.group(1), _options(match.group(2) or "")))
        position = match.end()
    return items


def _options(text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidInput(f"pass option must look like name=value, not {part!r}")
        options[name.strip().replace("-", "_")] = _value(value.strip())
    return options


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _make_pass(name: str, options: dict[str, Any]) -> Pass:
    made: Any = lookup("passes", name)
    if not isinstance(made, Pass) and not (isinstance(made, type) and issubclass(made, Pass)):
        raise InvalidInput(f"pass {name} must be a Pass or a class of Passes, not {type(made).__name__}")
    _check_options(name, made, options)
    if isinstance(made, Pass):
        return replace(made, **options) if options else made  # type: ignore[type-var]
    chosen: Pass = made(**options)
    return chosen


def _check_options(name: str, made: Any, options: dict[str, Any]) -> None:
    known = {f.name: f for f in fields(made)} if is_dataclass(made) and not isinstance(made, RulePass) else {}
    if options and not known:
        raise InvalidInput(f"pass {name} must be given no options, not {sorted(options)}")
    for option, value in options.items():
        if option not in known:
            raise InvalidInput(f"pass {name} option must be one of {sorted(known)}, not {option!r}")
        wanted = _option_type(known[option].default)
        if wanted is not None and type(value) not in wanted:
            raise InvalidInput(f"pass {name} option {option} must be {wanted[0].__name__}, not {value!r}")
    if isinstance(made, Pass):
        return
    for option, field in known.items():
        if field.default is field.default_factory is MISSING and option not in options:
            raise InvalidInput(f"pass {name} must be given the option {option}: {name}{{{option}=...}}")


def _option_type(default: Any) -> tuple[type, ...] | None:
    """The types that a value for an option with this default may have; None when the default does not tell."""
    if default is None or default is MISSING:
        return None
    return (float, int) if isinstance(default, float) else (type(default),)
