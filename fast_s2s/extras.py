"""Optional libraries: imported where they are needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str) -> ModuleType:
    """Import a module of the `train` extra. Raises `not_installed` if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise not_installed(error.name or module) from error


def not_installed(package: str) -> ModuleNotFoundError:
    """The error for a missing package of the `train` extra, with the command that installs it."""
    message = f'{package} is not installed: pip install "fast-s2s[train]"'
    return ModuleNotFoundError(message, name=package)
