"""Imports published weights, exports to ONNX, and finds models by name."""

from trm_fast.interchange.locate import Located, bundled_names, locate, task_of_bundled
from trm_fast.interchange.published import from_published, published_config, published_names, read_published

__all__ = [
    "Located",
    "bundled_names",
    "from_published",
    "locate",
    "published_config",
    "published_names",
    "read_published",
    "task_of_bundled",
]
