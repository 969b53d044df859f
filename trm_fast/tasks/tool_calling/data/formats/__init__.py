"""The formats of conversations on disk, a file each: one row of JSON in, a ``Conversation`` out, and back.

A new format is one file here that calls ``register``; every file of this folder is loaded, so nothing else names it.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from trm_fast.tasks.tool_calling.data.formats.registry import (
    Command,
    Format,
    Reader,
    format_of,
    formats,
    get_format,
    register,
)

__all__ = ["Command", "Format", "Reader", "format_of", "formats", "get_format", "register"]

for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")
