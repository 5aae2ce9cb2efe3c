"""docs/api.md tells everything that the API has."""

import re
from pathlib import Path

import pytest

from muai_core import api

DOCUMENT = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")


def public(kind: type) -> list[str]:
    names = {*vars(kind), *getattr(kind, "__struct_fields__", ())}
    return sorted(name for name in names if not name.startswith("_"))


@pytest.mark.parametrize("name", api.__all__)
def test_everything_public_is_documented(name: str) -> None:
    assert f"`{name}" in DOCUMENT or f"## {name}" in DOCUMENT


@pytest.mark.parametrize(
    "kind",
    [api.GPUInfo, api.GPUManager, api.GPUMonitor, api.HealthReport],
    ids=lambda kind: kind.__name__,
)
def test_every_member_is_documented(kind: type) -> None:
    told = set(re.findall(r"`(\w+)", DOCUMENT))
    implied = {name for name in public(kind) if name.endswith("_mb")}
    assert set(public(kind)) - implied - told == set()
