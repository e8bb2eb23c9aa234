from collections.abc import AsyncIterator

import pytest

from .http_node import HttpNode, serve


@pytest.fixture(scope="package")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpNode]:
    async with serve(tmp_path_factory.mktemp("node"), max_body_bytes=1_000_000) as node:
        yield node
