"""A pytest plugin: ``TRM_FAST_SHARD=2/9`` runs the third of nine shares of the tests, dealt out in turn."""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number, shards = map(int, os.environ["TRM_FAST_SHARD"].split("/"))
    mine = items[number::shards]
    config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % shards != number])
    items[:] = mine
