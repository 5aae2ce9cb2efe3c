"""The build, the symbols and the layouts: the fake at the C ABI, against pynvml's own tables."""

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest
from fake_nvml import FakeNvml
from fake_nvml_build import FLAGS, HERE, build, symbols

STRUCTURES = {
    "nvmlPciInfo_t": pynvml.nvmlPciInfo_t,
    "nvmlPciInfoExt_v1_t": pynvml.nvmlPciInfoExt_v1_t,
    "nvmlMemory_t": pynvml.c_nvmlMemory_t,
    "nvmlMemory_v2_t": pynvml.c_nvmlMemory_v2_t,
    "nvmlBAR1Memory_t": pynvml.c_nvmlBAR1Memory_t,
    "nvmlUtilization_t": pynvml.c_nvmlUtilization_t,
    "nvmlProcessInfo_v2_t": pynvml.c_nvmlProcessInfo_v3_t,
    "nvmlProcessUtilizationSample_t": pynvml.c_nvmlProcessUtilizationSample_t,
    "nvmlTemperature_v1_t": pynvml.c_nvmlTemperature_v1_t,
    "nvmlMarginTemperature_v1_t": pynvml.c_nvmlMarginTemperature_v1_t,
    "nvmlViolationTime_t": pynvml.c_nvmlViolationTime_t,
    "nvmlValue_t": pynvml.c_nvmlValue_t,
    "nvmlFieldValue_t": pynvml.c_nvmlFieldValue_t,
    "nvmlEventData_t": pynvml.c_nvmlEventData_t,
    "nvmlDeviceAttributes_t": pynvml.c_nvmlDeviceAttributes,
    "nvmlRowRemapperHistogramValues_t": pynvml.c_nvmlRowRemapperHistogramValues,
    "nvmlEccSramErrorStatus_v1_t": pynvml.c_nvmlEccSramErrorStatus_v1_t,
}


def test_every_structure_is_laid_out_as_in_pynvml(tmp_path: Path) -> None:
    lines = ["#include <stddef.h>", '#include "nvml_abi.h"']
    for name, python in STRUCTURES.items():
        lines.append(f'_Static_assert(sizeof({name}) == {ctypes.sizeof(python)}, "{name}");')
        for field, *_ in python._fields_:
            offset = getattr(python, field).offset
            lines.append(f'_Static_assert(offsetof({name}, {field}) == {offset}, "{field}");')
    source = tmp_path / "layouts.c"
    source.write_text("\n".join(lines))
    command = ["gcc", *FLAGS.split(), f"-I{HERE}", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_structure_of_the_header_is_compared() -> None:
    header = (HERE / "nvml_abi.h").read_text()
    typedefs = {line[2:-1] for line in header.splitlines() if line.startswith("} nvml")}
    assert typedefs == set(STRUCTURES)


def test_every_symbol_that_pynvml_knows_is_there(nvml_library: Path) -> None:
    library = ctypes.CDLL(str(nvml_library / "libnvidia-ml.so.1"))
    assert len(symbols()) > 400
    assert [name for name in symbols() if not hasattr(library, name)] == []


def test_nothing_but_nvml_is_exported(nvml_library: Path) -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", nvml_library / "libnvidia-ml.so.1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [line.split()[-1] for line in listed.splitlines()]
    assert [name for name in names if not name.startswith("nvml")] == []


def test_building_again_is_a_look_at_a_stamp(tmp_path: Path) -> None:
    library = build(tmp_path)
    built = library.stat()
    assert build(tmp_path) == library
    assert library.stat().st_ino == built.st_ino


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc -include no-such-header.h")
    with pytest.raises(RuntimeError, match="no-such-header"):
        build(tmp_path)


def test_1024_gpus(
    make_fake_nvml: Callable[..., FakeNvml], start_nvml_process: Callable[..., Any]
) -> None:
    fake = make_fake_nvml(1024)
    fake.set(1023, temperature_celsius=77)
    process = start_nvml_process(fake)
    assert process.ask("n.nvmlDeviceGetCount()") == 1024
    process.ask("handles = [gpu(i) for i in range(1024)]")
    assert len(set(process.ask("[n.nvmlDeviceGetUUID(h) for h in handles]"))) == 1024
    assert len(set(process.ask("[n.nvmlDeviceGetPciInfo(h).busId for h in handles]"))) == 1024
    temperatures = process.ask("[n.nvmlDeviceGetTemperatureV(h, 0) for h in handles]")
    assert temperatures == [31] * 1023 + [77]
    by_uuid = f"n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID('{fake.uuid(700)}'))"
    assert process.ask(by_uuid) == 700
    fake.lose(512)
    lost = process.ask("[i for i, h in enumerate(handles) if code(n.nvmlDeviceGetPowerUsage, h)]")
    assert lost == [512]


def test_without_the_library_pynvml_says_so(fake_nvml: FakeNvml) -> None:
    script = "import pynvml as n\ntry: n.nvmlInit()\nexcept n.NVMLError as e: print(e.value)"
    env = fake_nvml.env() | {"LD_LIBRARY_PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def test_without_a_state_file_the_driver_is_not_loaded(
    fake_nvml: FakeNvml, start_nvml_process: Callable[..., Any], Refused: Any
) -> None:
    fake_nvml.path.unlink()
    process = start_nvml_process(fake_nvml, initialised=False)
    assert process.ask("n.nvmlInit()") == Refused(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
