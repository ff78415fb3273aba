"""A recipe is JSON that rebuilds an object: ``{"_target_": "drivesim.models.unet.ImageUNet", ...keyword arguments}``.

Networks carry their own recipe (``self.recipe = recipe(self, base=64, ...)``), checkpoints store it beside the weights, and
``build`` turns it back into a network. Only classes inside this package can be named, so a foreign file cannot run foreign code.
This file does not know what a network, a file or a configuration framework is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

__all__ = ["RecipeError", "build", "recipe"]

TARGET = "_target_"


class RecipeError(ValueError):
    """A recipe that names nothing we can build."""


def recipe(thing: object, **kwargs: Any) -> dict[str, Any]:
    """Describe ``thing``'s class (or ``thing`` itself, a class or function) and the keyword arguments that rebuild it.

    Arguments that carry a recipe of their own (nested networks) are replaced by it; tuples become lists, as in JSON.
    """
    cls = thing if isinstance(thing, type | FunctionType) else type(thing)
    return {TARGET: f"{cls.__module__}.{cls.__qualname__}", **{name: _plain(value) for name, value in kwargs.items()}}


def build(node: Any) -> Any:
    """Rebuild the object that a recipe describes, innermost first. Values without ``_target_`` are returned as they are.

    Raises:
        RecipeError: the target lies outside this package, does not exist, or refuses the arguments.
    """
    if isinstance(node, list):
        return [build(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    arguments = {name: build(value) for name, value in node.items() if name != TARGET}
    if TARGET not in node:
        return arguments
    cls = _find(node[TARGET])
    try:
        return cls(**arguments)
    except TypeError as error:
        raise RecipeError(f"{node[TARGET]} cannot be built from {sorted(arguments)}: {error}") from error


def _find(path: object) -> Any:
    if not isinstance(path, str) or not path.startswith("drivesim."):
        raise RecipeError(f"a recipe may only name classes of drivesim, not {path!r}")
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"no {path}: {error} (was the file written by another version?)") from error


def _plain(value: Any) -> Any:
    nested = getattr(value, "recipe", None)
    if isinstance(nested, Mapping):
        return dict(nested)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
