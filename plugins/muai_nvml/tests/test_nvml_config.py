"""Mistakes under devices.nvml: all at once, each at its line, in words."""

from pathlib import Path

import pytest

from muai_core import builtin
from muai_core.config import ConfigError, load_config

CONFIG = """\
models:
  chat: {source: "simulated:m", engine: simulated, engine_options: {memory_gib: 1}}
devices:
  sources: [nvml, cpu]
  nvml:
    deadline_s: 0.1
    xid_actions:
      31: ignor
      99999: ignore
      0: ignore
      abc: suspect
    thresholds: {ecc: 3}
    deadlines: 2
"""


def test_each_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "muai.yaml"
    file.write_text(CONFIG)
    with pytest.raises(ConfigError) as caught:
        load_config(file, load_plugins=builtin.load)
    told = {problem.path: (problem.line, problem.text()) for problem in caught.value.problems}
    for line, path, words in (
        (6, "deadline_s", "expected a number from 0.5 to 60"),
        (8, "xid_actions.31", "expected one of ignore, restart_app"),
        (9, "xid_actions.99999", "the key is a whole number, at most 9999"),
        (10, "xid_actions.0", "the key is a whole number, at least 1"),
        (11, "xid_actions.abc", "the key is a whole number"),
        (12, "thresholds.ecc", "unknown option"),
        (13, "deadlines", "did you mean deadline_s?"),
    ):
        where, text = told.pop(f"devices.nvml.{path}")
        assert where == line
        assert words in text
    assert not told
