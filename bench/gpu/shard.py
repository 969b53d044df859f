"""A pytest plugin: ``TRM_FAST_SHARD=2/9`` runs the third of nine shares of the tests, dealt out in turn.

Those that launch something on a GPU come first: the time may be short, and the others run anywhere."""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number, shards = map(int, os.environ["TRM_FAST_SHARD"].split("/"))
    ordered = sorted(items, key=lambda item: not launches(item))
    items[:] = ordered[number::shards]
    config.hook.pytest_deselected(items=[item for i, item in enumerate(ordered) if i % shards != number])


def launches(item: pytest.Item) -> bool:
    """Triton's tests take the ``device`` where there is one."""
    of_triton = item.path.parent.name == "triton" and "device" in getattr(item, "fixturenames", ())
    return of_triton or item.path.name == "test_cuda_device.py"
