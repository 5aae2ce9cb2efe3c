"""NVIDIA GPUs keep the contract of all device sources: those of a fake NVML, and this machine's."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_nvml import FakeNvml
from muai_nvml.source import NvmlSource

from muai_core.testing import DeviceSourceConformance

# The import mode leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent / "fake_cuda"))

from fake_cuda_build import build


@pytest.fixture(scope="class")
def driver(nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two H200 with NVLink, and a CUDA that computes."""
    folder = tmp_path_factory.mktemp("driver")
    environment = FakeNvml(folder / "state", gpus=2, library=nvml_library).env()
    libraries = f"{build(folder)}:{environment['LD_LIBRARY_PATH']}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "LD_LIBRARY_PATH": libraries}.items():
            patch.setenv(name, value)
        yield


@pytest.mark.usefixtures("driver")
class TestFakeGpus(DeviceSourceConformance):
    def make_source(self) -> NvmlSource:
        return NvmlSource()


class TestThisMachine(DeviceSourceConformance):
    """Whatever it has; without a driver there are no devices, and that is no fault."""

    def make_source(self) -> NvmlSource:
        return NvmlSource()
