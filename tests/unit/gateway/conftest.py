"""The gateway's bench as a fixture."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.gateway.bench import Bench, opened


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as bench:
        yield bench
