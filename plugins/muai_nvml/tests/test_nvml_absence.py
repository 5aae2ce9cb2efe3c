"""Machines without a driver: nothing heavy is imported, and where the look around looks."""

import subprocess
import sys
from pathlib import Path

import pytest
from fake_nvml import FakeNvml
from muai_nvml import absence


def run(program: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_registering_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from muai_nvml.hooks import muai_device_sources\n"
        "print([source.name for source in muai_device_sources()])\n"
        "print(sorted({'pynvml', 'pydantic', 'psutil', 'torch'} & set(sys.modules)))"
    )
    assert run(program) == "['nvml']\n[]"


def test_the_controller_never_loads_nvml(fake_nvml: FakeNvml) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from muai_nvml.source import NvmlSource\n"
        "source = NvmlSource(); source.open({}); source.listen(print)\n"
        "print(len(source.observe(time.monotonic()).devices))\n"
        "maps = Path('/proc/self/maps').read_text()\n"
        "print('pynvml' in sys.modules, 'libnvidia-ml' in maps)\n"
        "source.close()"
    )
    assert run(program, fake_nvml.env()) == "8\nFalse False"


class TestLookAround:
    @pytest.fixture(autouse=True)
    def _bare_machine(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(absence, "_TRACES", (str(tmp_path / "nvidiactl"),))
        monkeypatch.setattr(absence, "_CACHE", str(tmp_path / "ld.so.cache"))
        monkeypatch.setattr(absence, "_ROOTS", (str(tmp_path / "lib"),))
        monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)

    def test_finds_nothing_on_a_bare_machine(self) -> None:
        assert not absence.may_find_library(None)

    @pytest.mark.parametrize("place", ["lib", "lib64", "prefix/lib", "elsewhere", "given"])
    def test_finds_it_where_a_loader_looks(
        self, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("LD_LIBRARY_PATH", f"/does/not/exist:{tmp_path / 'elsewhere'}")
        library = tmp_path / place / absence.LIBRARY
        library.parent.mkdir(parents=True)
        library.touch()
        assert absence.may_find_library(str(tmp_path / "given"))

    def test_finds_it_in_the_loaders_cache(self, tmp_path: Path) -> None:
        (tmp_path / "ld.so.cache").write_bytes(b"\0/opt/x/libnvidia-ml.so.1\0")
        assert absence.may_find_library(None)

    def test_is_in_doubt_where_there_is_a_kernel_driver(self, tmp_path: Path) -> None:
        (tmp_path / "nvidiactl").touch()
        assert absence.may_find_library(None)
