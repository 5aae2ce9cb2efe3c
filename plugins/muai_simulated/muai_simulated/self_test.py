"""The self-test of a simulated GPU: `python -m muai_simulated.self_test OUTCOME`."""

import sys
import threading
from typing import Literal, get_args

import msgspec

from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import SelfTestResult

#: `hang` never ends by itself.
Outcome = Literal["pass", "fail", "inconclusive", "hang"]

_RESULTS = {
    "pass": SelfTestResult(detail="computed as expected, by the state file"),
    "fail": SelfTestResult(
        finding=Finding(
            kind="self_test",
            severity=Health.FAILED,
            recovery="service",
            reason="self-test: a computation had a wrong result, by the state file",
            advice="have the device replaced",
            clears="repaired",
        )
    ),
    "inconclusive": SelfTestResult(inconclusive="nothing was proven, by the state file"),
}


def main(argv: list[str]) -> int:
    """Prints the result; returns the exit status, 2 for an outcome that is none."""
    if len(argv) != 1 or argv[0] not in get_args(Outcome):
        sys.stderr.write(f"one argument, of {', '.join(get_args(Outcome))}\n")
        return 2
    if argv[0] == "hang":
        threading.Event().wait()
    sys.stdout.write(msgspec.json.encode(_RESULTS[argv[0]]).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
