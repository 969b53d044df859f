"""Imports published weights, exports to ONNX, and finds models by name."""

from trm_fast.interchange.locate import Located, bundled_names, bundled_task, locate
from trm_fast.interchange.published import from_published, published_config, published_names, read_published

__all__ = [
    "Located",
    "bundled_names",
    "bundled_task",
    "from_published",
    "locate",
    "published_config",
    "published_names",
    "read_published",
]
