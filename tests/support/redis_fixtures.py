"""A server and a cluster for the tests of one file. Loaded by conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_servers import Server, redis_cluster, redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Server]]:
    with redis_cluster() as nodes:
        yield nodes
