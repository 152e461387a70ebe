"""Optional libraries: imported where they are needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str = "train") -> ModuleType:
    """Import a module of an extra. Raises `not_installed` if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise not_installed(error.name or module, extra) from error


def not_installed(package: str, extra: str = "train") -> ModuleNotFoundError:
    """The error for a missing package of an extra, with the command that installs it."""
    message = f'{package} is not installed: pip install "fast-s2s[{extra}]"'
    return ModuleNotFoundError(message, name=package)
