"""The web page with live models and live training, and its JSON API. It needs the extra ``web``."""

from trm_fast.web.server import ServerOptions, serve

__all__ = ["ServerOptions", "serve"]
