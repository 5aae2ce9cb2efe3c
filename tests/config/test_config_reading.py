"""Files that are no config: a clear error each, at once, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from muai_core.config import ConfigError


def _told(load, path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        load(path)
    [problem] = raised.value.problems
    place = "FILE" if problem.line is None else f"FILE:{problem.line}"
    return f"{place}   {problem.message}"


def test_missing_file(load, tmp_path: Path) -> None:
    assert _told(load, tmp_path / "none.yaml") == "FILE   no such file"


def test_directory(load, tmp_path: Path) -> None:
    assert "FILE   this is a directory; name the YAML file inside it" in _told(load, tmp_path)


def test_file_below_a_file(load, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert "the file cannot be read: Not a directory" in _told(load, tmp_path / "a" / "b.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(load, tmp_path: Path) -> None:
    path = tmp_path / "muai.yaml"
    path.write_text("models: {}")
    path.chmod(0)
    assert "the file cannot be read: permission denied" in _told(load, path)


def test_named_pipe_without_a_writer_is_not_waited_for(load, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "this is not a regular file" in _told(load, path)


def test_name_with_a_null_byte(load) -> None:
    assert "this is not a file name" in _told(load, Path("a\0b"))


def test_huge_file_is_refused_by_its_size(load, tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    told = _told(load, path)
    assert "the file has 200,000,000 bytes; a config may have 1,048,576" in told


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_file_that_hides_its_size(load) -> None:
    with pytest.raises(ConfigError):
        load(Path("/proc/self/status"))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_not_utf8_names_byte_and_line(load, tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "muai.yaml"
    path.write_bytes(mark + b"models:\n  caf\xe9: {}\n")
    told = _told(load, path)
    offset = len(mark) + 13
    assert f"FILE:2   not UTF-8: byte 0xE9 at offset {offset}; save the file as UTF-8" in told


def test_utf16_is_not_utf8(load, tmp_path: Path) -> None:
    path = tmp_path / "muai.yaml"
    path.write_text("models: {}\n", "utf-16")
    assert "FILE:1   not UTF-8: byte 0xFF at offset 0" in _told(load, path)


def test_byte_order_mark_and_windows_lines_are_fine(load, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    path = tmp_path / "muai.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodels:\r\n  chat:\r\n    source: model.gguf\r\n")
    loaded = load(path)
    assert loaded.origin(("models", "chat", "source")).line == 3


def test_line_numbers_survive_unusual_line_breaks(load, tmp_path: Path) -> None:
    path = tmp_path / "muai.yaml"
    path.write_bytes(b"# one\r\n# two\nmodels:\n  chat:\n    colour: red\n")
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert [p.line for p in raised.value.problems] == [4, 5]


def test_control_characters_reach_no_terminal(load, tmp_path: Path) -> None:
    path = tmp_path / "evil\x1b[2J.yaml"
    path.write_text('models: {"a\\e[31m": {}, b: {source: "\\u202e\\0"}}\n"\\x9b\\n": 1\n')
    with pytest.raises(ConfigError) as raised:
        load(path)
    told = str(raised.value)
    assert all(c.isprintable() or c == "\n" for c in told)
    assert "evil\\x1b[2J.yaml:1" in told
    assert told.count("\n") == len(told.splitlines()) - 1


def test_bombs_are_refused_in_a_fresh_process_with_little_memory(tmp_path: Path) -> None:
    """Aliases that expand to 10^20 values, 100,000 brackets and a million keys."""
    bomb = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 21)
    )
    (tmp_path / "alias.yaml").write_text(bomb)
    (tmp_path / "depth.yaml").write_text("models: " + "[" * 100_000)
    (tmp_path / "block.yaml").write_text("- " * 100_000)
    (tmp_path / "braces.yaml").write_text("{a: " * 100_000)
    (tmp_path / "keys.yaml").write_text("".join(f"k{n}: 1\n" for n in range(80_000)))
    (tmp_path / "long.yaml").write_text("models: " + "x" * 1_000_000)
    (tmp_path / "comment.yaml").write_text("#" * 1_000_000)
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from muai_core.config import ConfigError, load_config\n"
        "from muai_core.plugin.loading import Plugins\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        load_config(name, (), {}, load_plugins=lambda files: Plugins())\n"
        "    except ConfigError as error:\n"
        "        print(name, len(error.problems), max(map(len, str(error).splitlines())))\n"
    )
    names = sorted(path.name for path in tmp_path.glob("*.yaml"))
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", script, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stderr == ""
    told = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert set(told) == set(names), f"after {time.monotonic() - started:.0f} s"
    assert all(int(problems) <= 3 and int(width) < 400 for problems, width in told.values())
