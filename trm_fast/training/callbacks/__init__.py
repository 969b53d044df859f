"""Callbacks, one file each. To add a callback, add a file to this folder and register a class under the file's name.

A callback's file is imported at its first use, so that TensorBoard, W&B and rich are loaded only if they are used.
"""

from importlib import import_module
from pkgutil import iter_modules

from trm_fast.errors import UserError, shown
from trm_fast.training.callbacks.base import CALLBACKS, Callback, Callbacks, Run

__all__ = ["Callback", "Callbacks", "Run", "callback_names", "make_callback"]


ALWAYS = ("console", "json_lines")
"""The callbacks that ``trm-fast train`` always has."""


def callback_names() -> list[str]:
    """The names of all callbacks, even those whose packages are not installed."""
    return sorted(module.name for module in iter_modules(__path__) if module.name != "base")


def make_callback(name: str) -> Callback:
    """Creates the callback that is registered under ``name``.

    Raises:
        UserError: no callback has this name, or its package is not installed.
    """
    if name not in callback_names():
        raise UserError(
            f"unknown callback {shown(name)}; choose one of: {', '.join(callback_names())}", usage_error=True
        )
    try:
        import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise UserError(
            f'{name} needs a further package ({error}): pip install "trm-fast[{name}]"', usage_error=True
        ) from None
    return CALLBACKS[name]()
