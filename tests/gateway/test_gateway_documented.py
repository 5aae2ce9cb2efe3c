"""What clients and operators can meet is in the documents."""

import ast
from pathlib import Path

import msgspec

from muai_core.config.schema.gateway import GatewayConfig
from muai_core.gateway import GatewaySettings

ROOT = Path(__file__).parents[2]


def error_codes():
    """Status and code of every ApiError that the gateway's source makes."""
    for path in (ROOT / "muai_core" / "gateway").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ApiError":
                status, code = node.args[:2]
                if isinstance(status, ast.Constant):
                    yield status.value, code.value


def test_every_error_code_is_documented():
    rows = [
        line
        for line in (ROOT / "docs" / "gateway.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    codes = set(error_codes())
    assert len(codes) > 15
    missing = [
        (status, code)
        for status, code in codes
        if not any(row.startswith(f"| {status} |") and f"`{code}`" in row for row in rows)
    ]
    assert missing == []


def test_the_config_section_and_the_settings_agree():
    settings = {field.name: field.default for field in msgspec.structs.fields(GatewaySettings)}
    section = {name: field.default for name, field in GatewayConfig.model_fields.items()}
    assert section == settings
