"""What every test runs in: nothing of the user's is read, and nothing is left with the user."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

#: Proxies would catch what tests ask of 127.0.0.1; colours and widths would change what is printed.
UNWANTED = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES")
OF_THE_TESTS = "MUAI_TEST_"

# The same examples every time, so that a failure is the change's; MUAI_TEST_EFFORT looks for more.
settings.register_profile(
    "muai",
    deadline=None,
    derandomize="MUAI_TEST_EFFORT" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("muai")


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The environment of this process, and with it of all that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            ours = name.startswith("MUAI_") and not name.startswith(OF_THE_TESTS)
            if ours or name.upper() in UNWANTED:
                patch.delenv(name)
        for name in ("STATE", "CACHE", "CONFIG", "DATA"):
            patch.setenv(f"XDG_{name}_HOME", str(tmp_path_factory.mktemp(name.lower())))
        temporary = str(tmp_path_factory.mktemp("temporary"))
        patch.setenv("TMPDIR", temporary)
        patch.setattr(tempfile, "tempdir", temporary)
        yield
