"""What the README and docs/plugins/ show is run as it stands there."""

import re
from pathlib import Path

import pytest

import muai_core
from muai_core import builtin
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.fleet import DeviceView, Fleet, PlacementRequest
from muai_core.model.health import Health
from muai_core.plugin.loading import KINDS
from muai_core.plugin.recovery import GiveUp, ReplicaLoss, RestartAfter
from muai_core.runtime.observation import DeviceWatch

ROOT = Path(__file__).parents[2]
GIB = 1024**3


def example(document: str, hook: str) -> str:
    """The Python block of a document that implements `hook`."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (found,) = [block for block in blocks if hook in block]
    return str(found)


def device(index: int, claimed_bytes: int) -> DeviceView:
    return DeviceView(
        device=Device(
            uuid=f"GPU-{index}",
            node="n",
            index=index,
            kind="gpu",
            platform="cuda",
            name="H100",
            memory_total_bytes=80 * GIB,
        ),
        health=Health.HEALTHY,
        health_reason=None,
        allocatable_bytes=80 * GIB,
        claimed_bytes=claimed_bytes,
    )


def request(tensor_parallel_size: int) -> PlacementRequest:
    deployment = Deployment(
        name="chat",
        source="x",
        engine="any",
        platforms=("cuda",),
        tensor_parallel_size=tensor_parallel_size,
        memory_bytes_per_device=GIB,
    )
    return PlacementRequest(replica_id="chat.0", deployment=deployment)


def test_the_strategy_of_the_readme_places_on_the_freest_devices(tmp_path: Path) -> None:
    code = example("README.md", "muai_allocation_strategies")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    (tmp_path / "most_free.py").write_text(code)
    plugins = builtin.load([tmp_path / "most_free.py"], {})
    strategy = plugins.allocation_strategies["most_free"]
    fleet = Fleet((device(0, 30 * GIB), device(1, 10 * GIB), device(2, 20 * GIB)))
    placement = strategy.place(request(2), fleet)
    assert isinstance(placement, muai_core.Placement)
    assert placement.stages == (("GPU-1", "GPU-2"),)


def test_the_policy_of_the_docs_gives_up_after_three_failures(tmp_path: Path) -> None:
    (tmp_path / "strikes.py").write_text(
        example("docs/plugins/recovery-policies.md", "muai_recovery_policies")
    )
    plugins = builtin.load([tmp_path / "strikes.py"], {})
    policy = plugins.recovery_policies["three_strikes"]

    def decide(failures: int) -> RestartAfter | GiveUp:
        loss = ReplicaLoss(
            replica_id="chat.0",
            epoch=failures,
            deployment=request(1).deployment,
            cause="exited with status 1",
            failures=failures,
            jitter=0.0,
        )
        return policy.decide(loss, 1.0, 60.0)

    assert isinstance(decide(2), RestartAfter)
    assert isinstance(decide(3), GiveUp)


def test_the_device_source_of_the_docs_sees_a_degraded_device(tmp_path: Path) -> None:
    (tmp_path / "npu.py").write_text(
        example("docs/plugins/device-sources.md", "muai_device_sources")
    )
    source = builtin.load([tmp_path / "npu.py"], {}).device_sources["npu"]
    watch = DeviceWatch({source: {}})
    (record,) = watch.look().devices.values()
    watch.close()
    assert (record.health, record.health_reason) == (Health.DEGRADED, "98 °C")


@pytest.mark.parametrize("hook", list(KINDS))
def test_every_hook_is_documented(hook: str) -> None:
    assert f"`{hook}`" in (ROOT / "docs/plugins/README.md").read_text()


def test_links_in_the_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("plugins/*/*.md")]
    broken = []
    for document in documents:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            if not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert broken == []


def test_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`(muai_core/[\w/]+(?:\.py|/))`", text)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []
