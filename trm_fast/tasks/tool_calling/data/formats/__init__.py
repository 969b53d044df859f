"""The formats of conversations on disk, one file each: they turn a row of JSON into a ``Conversation`` and back.

To add a format, add a file to this folder that calls ``register``. All files of this folder are imported.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from trm_fast.tasks.tool_calling.data.formats.registry import (
    Command,
    Format,
    Reader,
    detect_format,
    formats,
    get_format,
    register,
)

__all__ = ["Command", "Format", "Reader", "detect_format", "formats", "get_format", "register"]

for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")
