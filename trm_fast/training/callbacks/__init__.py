"""Callbacks, one file each. A file in this folder that registers a class by its own name is all that a new one takes.

They are imported when they are asked for: TensorBoard, W&B and rich cost nothing where they are not used.
"""

from importlib import import_module
from pkgutil import iter_modules

from trm_fast.errors import UserError
from trm_fast.training.callbacks.base import CALLBACKS, Callback, Callbacks, Run

__all__ = ["Callback", "Callbacks", "Run", "callback_names", "make_callback"]


ALWAYS = ("console", "json_lines")
"""What ``trm-fast train`` has anyway."""


def callback_names() -> list[str]:
    """Names of the callbacks that ship, those whose packages are not installed included."""
    return sorted(module.name for module in iter_modules(__path__) if module.name != "base")


def make_callback(name: str) -> Callback:
    """The callback of a name; UserError where there is none, or where it lacks its package."""
    if name not in callback_names():
        raise UserError(f"there is no callback {name!r}; there are: {', '.join(callback_names())}", wrong_use=True)
    try:
        import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise UserError(
            f'{name} needs a further package ({error}): pip install "trm-fast[{name}]"', wrong_use=True
        ) from None
    return CALLBACKS[name]()
