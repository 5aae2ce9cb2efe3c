"""Loading plugins: real packages on a path of their own, real local files, and none can do harm."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muai_core import builtin
from muai_core.plugin.loading import PluginRecord, Plugins

GOOD = """\
from muai_core import AllocationStrategy, hookimpl

class First(AllocationStrategy):
    name = "{strategy}"
    def place(self, request, fleet):
        return request.placement_on(fleet.devices)

@hookimpl
def muai_allocation_strategies():
    return [First()]
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution: its modules and its dist-info, in a folder that is on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def install(
        name: str,
        code: str | None,
        version: str = "1.0",
        entry_points: str | None = None,
        folder: Path = site,
    ) -> None:
        module = name.replace("-", "_")
        folder.mkdir(exist_ok=True)
        if code is not None:
            (folder / f"{module}.py").write_text(code)
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(entry_points or f"[muai]\n{module} = {module}\n")

    yield install
    for added in set(sys.modules) - before:
        if added.startswith(("muai_local_", "px_")):
            del sys.modules[added]


def load(*files: Path, disabled: str = "") -> Plugins:
    return builtin.load(files, {"MUAI_DISABLE_PLUGINS": disabled})


def record(plugins: Plugins, name: str) -> PluginRecord:
    [found] = [record for record in plugins.records if record.name == name]
    return found


def local(folder: Path, code: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(code)
    return path


def test_an_installed_package_is_found_by_its_entry_point(install: Install) -> None:
    install("px-first", GOOD.format(strategy="first"), version="2.5")
    plugins = load()
    assert record(plugins, "px_first") == PluginRecord(
        name="px_first",
        version="2.5",
        origin="px-first",
        status="ok",
        registers=(("allocation strategy", "first"),),
    )
    assert plugins.allocation_strategies["first"].name == "first"


def test_a_local_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = local(tmp_path, GOOD.format(strategy="mine"))
    assert record(load(path), "mine").origin == str(path)
    assert "mine" in load(path).allocation_strategies


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module_xyz", "No module named 'no_such_module_xyz'"),
        ("raise RuntimeError('not today')", "RuntimeError: not today"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
        ("def broken(:", "SyntaxError"),
        ("import sys\ndel sys.modules[__name__]\nraise ValueError('gone')", "ValueError: gone"),
        ("class E(Exception):\n    __str__ = None\nraise E", "E: <exception str() failed>"),
        ("", "registers nothing"),
        ("def muai_engines():\n    return []", "registers nothing"),
        (
            "from muai_core import hookimpl\n@hookimpl\ndef muai_engine():\n    return []",
            "unknown hook 'muai_engine'; there are: muai_device_sources, muai_allocation_strat",
        ),
        (
            "from muai_core import hookimpl\n@hookimpl\ndef muai_engines(config):\n    return []",
            "hook",
        ),
        (
            "from muai_core import hookimpl\n@hookimpl\ndef muai_engines():\n    return 1 / 0",
            "ZeroDivisionError",
        ),
        (
            "from muai_core import hookimpl\n@hookimpl\ndef muai_engines():\n    yield 1 / 0",
            "ZeroDivisionError",
        ),
        (
            "from muai_core import hookimpl\n@hookimpl\ndef muai_engines():\n    return None",
            "registers nothing",
        ),
        (
            "from muai_core import hookimpl\n@hookimpl\ndef muai_engines():\n    return ['vllm']",
            "muai_engines must return Engine instances, got 'vllm'",
        ),
        (
            GOOD.format(strategy="x") + "\n@hookimpl\ndef muai_engines():\n    return [First()]",
            "muai_engines must return Engine instances",
        ),
        (GOOD.format(strategy="x").replace("[First()]", "[First]"), "must return AllocationStra"),
        (GOOD.format(strategy="x").replace("[First()]", "First()"), "must return a list, got"),
        (GOOD.format(strategy="x").replace("def place", "def put"), "abstract"),
        (GOOD.format(strategy=""), "has no name"),
        (GOOD.format(strategy="x").replace('name = "x"', "name = 7"), "has no name"),
        (GOOD.format(strategy="balanced"), "name 'balanced' is taken"),
        (GOOD.format(strategy="x").replace("[First()]", "[First(), First()]"), "'x' is taken"),
        (
            "from muai_core import Engine, hookimpl\n"
            "class E(Engine):\n"
            "    name = 'e'\n"
            "    def suits(self, deployment): ...\n"
            "    def launch(self, request): ...\n"
            "@hookimpl\ndef muai_engines():\n    return [E()]",
            "the engine 'e' has no platforms",
        ),
    ],
)
def test_a_broken_plugin_fails_alone_and_says_why(
    install: Install, tmp_path: Path, code: str, reason: str
) -> None:
    install("px-broken", code)
    install("px-good", GOOD.format(strategy="good"))
    plugins = load(local(tmp_path, code))
    for name in ("px_broken", "mine"):
        broken = record(plugins, name)
        assert broken.status == "failed"
        assert broken.reason is not None
        assert reason in broken.reason
        assert "\n" not in broken.reason
    assert record(plugins, "px_good").status == "ok"
    assert {"balanced", "good"} <= set(plugins.allocation_strategies)
    assert "x" not in plugins.allocation_strategies
    assert (
        type(plugins.allocation_strategies["balanced"]).__module__ == "muai_core.planning.balanced"
    )


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("x = 1\nimport no_such_module_xyz", "(mine.py:2)"),
        ("x = 1\ndef broken(:", "(mine.py:2)"),
        ("import json\n\njson.loads('{')", "(mine.py:3)"),
        (
            "from muai_core import hookimpl\n@hookimpl\ndef muai_engines():\n    return 1 / 0",
            "(mine.py:4)",
        ),
    ],
)
def test_the_reason_names_the_line_of_the_plugin(tmp_path: Path, code: str, place: str) -> None:
    [failed] = load(local(tmp_path, code)).failed()
    assert failed.reason is not None
    assert failed.reason.endswith(place)


def test_an_interrupt_is_not_a_plugin_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load(local(tmp_path, "raise KeyboardInterrupt"))


@pytest.mark.parametrize("name", ["missing.py", "folder", "notes.txt"])
def test_what_is_no_python_file_is_a_failed_plugin(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    [failed] = load(tmp_path / name).failed()
    assert failed.origin == str(tmp_path / name)


def test_what_a_plugin_prints_stays_out_of_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "print('hello from a plugin')\n" + GOOD.format(strategy="mine")
    assert record(load(local(tmp_path, code)), "mine").status == "ok"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello from a plugin" in captured.err


def test_names_clash_between_plugins_too(install: Install) -> None:
    install("px-a", GOOD.format(strategy="same"))
    install("px-b", GOOD.format(strategy="same"))
    plugins = load()
    assert record(plugins, "px_a").status == "ok"
    assert "'same' is taken" in str(record(plugins, "px_b").reason)


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "a", "b"), ("b", "c", "a")])
def test_packages_load_in_the_order_of_their_names(
    install: Install, order: tuple[str, ...]
) -> None:
    for letter in order:
        install(f"px-{letter}", GOOD.format(strategy=letter))
    plugins = load()
    loaded = [record.name for record in plugins.records if record.name.startswith("px_")]
    assert loaded == ["px_a", "px_b", "px_c"]
    assert plugins.records[0].origin == "built-in"


def test_the_first_on_the_path_hides_a_second_installation(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    install("px-twice", None, version="1.0", folder=other)
    monkeypatch.syspath_prepend(str(other))
    install("px-twice", GOOD.format(strategy="twice"), version="2.0")
    assert record(load(), "px_twice").version == "1.0"


def test_plugins_can_be_left_out_by_name(install: Install, tmp_path: Path) -> None:
    install("px-a", "raise SystemExit('must not even be imported')")
    install("px-b", GOOD.format(strategy="b"))
    path = local(tmp_path, GOOD.format(strategy="mine"))
    plugins = load(path, disabled=" px_a , mine ,")
    assert record(plugins, "px_a").status == "disabled"
    assert record(plugins, "px_a").reason == "by MUAI_DISABLE_PLUGINS"
    assert record(plugins, "mine").status == "disabled"
    assert record(plugins, "px_b").status == "ok"
    assert "px_a" not in sys.modules


def test_all_plugins_but_the_built_in_ones_can_be_left_out(
    install: Install, tmp_path: Path
) -> None:
    install("px-a", GOOD.format(strategy="a"))
    plugins = load(local(tmp_path, GOOD.format(strategy="mine")), disabled="all")
    by_status = {record.name: record.status for record in plugins.records}
    assert by_status.pop("muai-core") == "ok"
    assert set(by_status.values()) == {"disabled"}


@pytest.mark.parametrize(
    "entry_points",
    [
        "[muai]\npx_odd\n",
        "[muai]\npx_odd = no_such_module_xyz\n",
        "[muai]\npx_odd = px_odd:nothing\n",
    ],
)
def test_malformed_metadata_is_a_failed_plugin_too(install: Install, entry_points: str) -> None:
    install("px-odd", "", entry_points=entry_points)
    install("px-good", GOOD.format(strategy="good"))
    plugins = load()
    assert any(record.status == "failed" for record in plugins.records)
    assert record(plugins, "px_good").status == "ok"


def test_malformed_metadata_of_others_is_none_of_our_business(install: Install) -> None:
    install("px-other", "", entry_points="[console_scripts]\nrubbish\n")
    install("px-good", GOOD.format(strategy="good"))
    plugins = load()
    assert record(plugins, "px_good").status == "ok"
    assert plugins.failed() == []
