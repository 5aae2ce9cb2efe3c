"""The real pynvml on the fake library."""

import json
import subprocess
import sys

from fake_nvml import FakeNvml


def ask(fake: FakeNvml, script: str) -> object:
    """What `script` prints as JSON, in a process that sees the fake GPUs as `n` (pynvml)."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, pynvml as n\nn.nvmlInit()\n{script}"],
        env=fake.env(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_the_count_and_the_names(fake_nvml: FakeNvml) -> None:
    script = "print(json.dumps([n.nvmlDeviceGetName(n.nvmlDeviceGetHandleByIndex(i)) for i in range(n.nvmlDeviceGetCount())]))"
    assert ask(fake_nvml, script) == ["NVIDIA H200"] * 8
