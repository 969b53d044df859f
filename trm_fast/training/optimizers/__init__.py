"""Optimizers, one file each. To add an optimizer, add a file to this folder and register a class in it."""

from importlib import import_module
from pkgutil import iter_modules

from trm_fast.training.optimizers.adam_atan2 import AdamATan2
from trm_fast.training.optimizers.base import OPTIMIZERS, Optimizer

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["OPTIMIZERS", "AdamATan2", "Optimizer"]
