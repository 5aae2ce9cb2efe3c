import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The import mode leaves sys.path alone, and these tests share one module.
sys.path.insert(0, str(Path(__file__).parent))

from replica_programs import Programs


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    written = Programs(tmp_path)
    yield written
    for process in written.started:
        process.kill()
        process.collect()
