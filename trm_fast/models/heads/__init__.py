"""Answer heads, one file each. To add a head, add a file to this folder and register a class in it."""

from importlib import import_module
from pkgutil import iter_modules

from trm_fast.models.heads.base import HEADS, Head, HeadConfig, HeadInputs, register
from trm_fast.models.heads.tokens import TokenHead, TokensConfig

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["HEADS", "Head", "HeadConfig", "HeadInputs", "TokenHead", "TokensConfig", "register"]
