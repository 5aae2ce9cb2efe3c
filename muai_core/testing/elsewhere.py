"""What a policy answers in other processes, where the order of sets and `hash()` differ.

`python -m muai_core.testing.elsewhere MODULE FILE KIND NAME OPTIONS` prints one JSON document.
"""

import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from muai_core.planning.wording import one_line
from muai_core.plugin.loading import DISABLE_VARIABLE, KINDS, load_plugins
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, Kind
from muai_core.testing.pure_calls import said

#: With the first, sets of texts come in another order than with the second.
_HASH_SEEDS = ("1", "2")
_WITHIN_S = 120.0


def same_in_every_process(
    kind: Kind, name: str, plugin_module: str, options: Mapping[str, Any]
) -> None:
    """Raises ClauseFailure when its answers differ between two processes."""
    module = sys.modules.get(plugin_module) or importlib.import_module(plugin_module)
    if name not in _registered(module, kind):
        raise ClauseSkipped(f"{plugin_module} does not register it, see the clause on hooks")
    file = inspect.getsourcefile(module) or ""
    arguments = (plugin_module, file, kind, name, json.dumps(dict(options), default=str))
    first, second = (_answers(arguments, seed) for seed in _HASH_SEEDS)
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        if one != other:
            raise ClauseFailure(
                f"one process answers question {number} with {one}, another with {other}: "
                "iterate over no set and use no hash()"
            )


def _answers(arguments: tuple[str, ...], hash_seed: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-m", "muai_core.testing.elsewhere", *arguments],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        words = one_line(done.stderr.strip().rpartition("\n")[2])
        raise ClauseFailure(f"in a process of its own it fails: {words}")
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Answers the questions of the kit. Raises whatever the plugin raises."""
    module, file, kind, name, options = sys.argv[1:]
    part = _registered(_imported(module, file), kind)[name]
    subject: Any
    if kind == "allocation strategy":
        from muai_core.testing.allocation import AllocationSubject

        subject = AllocationSubject(part, json.loads(options), plugin_module=module)
        answers = [said(answer) for task in subject.tasks() for answer in subject.place(task)]
    else:
        from muai_core.testing.recovery import RecoverySubject

        subject = RecoverySubject(part, json.loads(options), plugin_module=module)
        answers = [said(subject.decide(loss)) for loss in subject.losses()]
    sys.stdout.write(f"\n{json.dumps(answers)}\n")


def _registered(module: ModuleType, kind: str) -> dict[str, Any]:
    """Parts of that kind, by name."""
    loaded = load_plugins({"under test": module}, environ={DISABLE_VARIABLE: "all"})
    [hook] = [hook for hook, (word, _) in KINDS.items() if word == kind]
    return loaded.table(hook)


def _imported(name: str, file: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(name)
    except ImportError:
        found = None
    if found is not None:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
