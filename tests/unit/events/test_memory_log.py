"""The log in memory passes the contract of all logs."""

import pytest

from events.log.memory import MemoryLog
from tests.contract.log_contract import LogContract
from tests.contract.sample_events import SAMPLE_CODEC


class TestMemoryLog(LogContract):
    @pytest.fixture
    def log(self) -> MemoryLog:
        return MemoryLog(codec=SAMPLE_CODEC)
