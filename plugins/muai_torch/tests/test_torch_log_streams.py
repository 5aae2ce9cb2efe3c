"""A worker whose log has no room, or no log at all, works on and ends with its own status."""

import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import sys
from muai_torch.log_streams import end_process, forgive_full_disk
forgive_full_disk()
for _ in range(3):
    print("x" * 100_000, flush=True)
    print("y", file=sys.stderr)
end_process(7)
"""


def test_prints_to_a_full_disk_are_lost() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", WORK], stdout=full, stderr=full, timeout=60)
    assert done.returncode == 7


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_stream_that_is_closed_is_not_missed(closed: str) -> None:
    script = WORK.replace(
        'print("y", file=sys.stderr)', 'sys.stderr and print("y", file=sys.stderr)'
    )
    done = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, script])
    assert done.returncode == 7


def test_what_there_is_room_for_is_written() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, timeout=60)
    assert done.returncode == 7
    assert done.stdout == (b"x" * 100_000 + b"\n") * 3
    assert done.stderr == b"y\n" * 3
