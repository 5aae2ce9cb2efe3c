"""The public door and the interfaces: complete, documented, and cheap to import."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import muai_core
from muai_core.plugin import hookspecs
from muai_core.plugin.loading import KINDS

HEAVY = ("torch", "transformers", "vllm", "deepspeed", "aiohttp", "pydantic", "numpy", "rich")
PACKAGE = Path(muai_core.__file__).parent


def test_every_public_name_resolves_and_is_documented() -> None:
    assert sorted(muai_core.__all__, key=str.casefold) == sorted(
        set(muai_core.__all__), key=str.casefold
    )
    for name in muai_core.__all__:
        value = getattr(muai_core, name)
        if inspect.isclass(value):
            assert value.__doc__, name


def test_nothing_else_is_public() -> None:
    assert dir(muai_core) == muai_core.__all__
    with pytest.raises(AttributeError, match="no attribute 'Deploymnet'"):
        _ = muai_core.Deploymnet
    packages = {path.stem for path in PACKAGE.iterdir()}
    ours = {
        name
        for name, value in vars(muai_core).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("muai")
    }
    assert ours - packages <= set(muai_core.__all__)


def interface_methods() -> list[tuple[type, str]]:
    """Every method that a plugin author may implement or call on an interface."""
    found = []
    for _, interface in KINDS.values():
        for name, value in inspect.getmembers(interface, inspect.isfunction):
            if not name.startswith("_"):
                assert value.__module__.startswith("muai_core.plugin")
                found.append((interface, name))
    return found


@pytest.mark.parametrize(("interface", "name"), interface_methods())
def test_an_interface_method_says_when_it_is_called_whether_it_may_block_and_what_a_raise_does(
    interface: type, name: str
) -> None:
    own = inspect.getdoc(getattr(interface, name)) or ""
    assert own.startswith("Called"), f"{interface.__name__}.{name}: when is it called?"
    together = " ".join(f"{own} {inspect.getdoc(interface)}".lower().split())
    assert any(word in together for word in ("block", "within seconds")), "may it block?"
    assert "raise" in together, "what may it raise, and what happens then?"


def test_every_hook_is_documented() -> None:
    for hook in KINDS:
        assert inspect.getdoc(getattr(hookspecs, hook))
    for words in ("called once", "raise", "100 ms"):
        assert words in (hookspecs.__doc__ or "")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MUAI_DISABLE_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_the_door_alone_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import muai_core; "
    loaded = run(code + "print(*sorted(m for m in sys.modules if m not in before))").split()
    assert [name for name in loaded if name.startswith("muai_core")] == ["muai_core"]
    assert not {name.partition(".")[0] for name in loaded} & {*HEAVY, "msgspec", "pluggy"}


def test_loading_all_plugins_imports_nothing_heavy() -> None:
    code = f"""
import sys
import muai_core
for name in muai_core.__all__:
    getattr(muai_core, name)
from muai_core import builtin
plugins = builtin.load()
failed = [record for record in plugins.failed()]
assert not failed, failed
assert len(plugins.records) > 1, "no plugin is installed"
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run(code).split() == []
