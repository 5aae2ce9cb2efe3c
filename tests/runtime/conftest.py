import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

# The import mode leaves sys.path alone, and these tests share one module.
sys.path.insert(0, str(Path(__file__).parent))

from replica_programs import Programs
from supervised_fleet import Fleet


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    written = Programs(tmp_path)
    yield written
    for process in written.started:
        process.kill()
        process.collect()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    assert await fleet.supervisor.close() == ()
    fleet.instance.close()
