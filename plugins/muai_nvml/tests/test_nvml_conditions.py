"""What a GPU's own counts and flags mean, and what follows from each XID: the tables."""

from typing import Any

import pytest
from muai_nvml.conditions import History, conditions
from muai_nvml.config import NvmlOptions
from muai_nvml.thresholds import Thresholds
from muai_nvml.wire import Facts
from muai_nvml.xid_catalogue import CATALOGUE
from muai_nvml.xid_policy import CONSEQUENCES, EXCEPTIONS, XID_ACTIONS, action_of, finding_of_event
from nvml_observing import Make, Open, kinds, observe

from muai_core.model.health import RECOVERY_ACTION, Finding, Health

XID = 0x8


def found(
    history: History | None = None, limits: Thresholds | None = None, **facts: Any
) -> list[Finding]:
    return list(conditions(Facts(**facts), history or History(), limits or Thresholds()))


class TestConditions:
    @pytest.mark.parametrize(
        ("facts", "kind", "severity", "recovery"),
        [
            ({"row_remap_pending": True}, "row_remap_pending", Health.DEGRADED, None),
            ({"row_remap_failure": True}, "row_remap_failure", Health.FAILED, "service"),
            ({"rows_remapped_uncorrectable": 512}, "rows_remapped", Health.FAILED, "service"),
            ({"pages_retired": 63}, "pages_retired", Health.FAILED, "service"),
            ({"pages_pending": True}, "page_retirement_pending", Health.DEGRADED, None),
            ({"sram_threshold_exceeded": True}, "sram_ecc", Health.FAILED, "service"),
            ({"ecc_uncorrected": 1}, "ecc_uncorrected", Health.FAILED, "reset"),
            (
                {"ecc_uncorrected": 1, "recovery_action": 0},
                "ecc_uncorrected",
                Health.DEGRADED,
                None,
            ),
            ({"recovery_action": 1}, RECOVERY_ACTION, Health.FAILED, "reset"),
            ({"recovery_action": 2}, RECOVERY_ACTION, Health.FAILED, "reboot"),
            ({"recovery_action": 3}, RECOVERY_ACTION, Health.DEGRADED, None),
            ({"recovery_action": 4}, RECOVERY_ACTION, Health.DEGRADED, None),
            ({"recovery_action": 5}, RECOVERY_ACTION, Health.DEGRADED, None),
            ({"recovery_action": 6}, RECOVERY_ACTION, Health.FAILED, "reboot"),
            ({"recovery_action": 7}, RECOVERY_ACTION, Health.FAILED, "reboot"),
            ({"recovery_action": 42}, RECOVERY_ACTION, Health.SUSPECT, None),
            ({"nvlinks": 18, "nvlinks_active": 17}, "nvlink_down", Health.DEGRADED, None),
        ],
    )
    def test_bad(
        self, facts: dict[str, Any], kind: str, severity: Health, recovery: str | None
    ) -> None:
        (finding,) = found(**facts)
        assert (finding.kind, finding.severity, finding.recovery) == (kind, severity, recovery)
        assert finding.reason
        assert finding.advice

    @pytest.mark.parametrize(
        "facts",
        [
            {},
            {"recovery_action": 0},
            {"row_remap_pending": False, "row_remap_failure": False},
            {"rows_remapped_uncorrectable": 511, "rows_remapped_correctable": 600},
            {"pages_retired": 62},
            {"ecc_uncorrected": 0},
            {"throttle_bits": 0xFF},
            # A bridged GPU has links that nothing is plugged into.
            {"nvlinks": None, "nvlinks_active": 4},
            {"nvlinks": 18, "nvlinks_active": 0},
        ],
    )
    def test_fine(self, facts: dict[str, Any]) -> None:
        assert found(**facts) == []

    def test_a_limit_of_zero_switches_a_check_off(self) -> None:
        off = Thresholds(pages_retired=0, rows_remapped=0, ecc_uncorrected=0, slowdown_readings=0)
        facts = {
            "pages_retired": 99,
            "rows_remapped_uncorrectable": 999,
            "ecc_uncorrected": 9,
            "throttle_bits": 0x48,
        }
        assert found(History(slowdown_readings=100), off, **facts) == []

    @pytest.mark.parametrize(
        ("bits", "kind"),
        [(0x48, "hw_thermal_slowdown"), (0x88, "hw_power_brake"), (0x8, "hw_slowdown")],
    )
    def test_a_slowdown_counts_once_it_lasts(self, bits: int, kind: str) -> None:
        history = History()
        facts = Facts(throttle_bits=bits)
        for _ in range(5):
            history.note(facts)
            assert list(conditions(facts, history, Thresholds())) == []
        history.note(facts)
        assert [finding.kind for finding in conditions(facts, history, Thresholds())] == [kind]
        history.note(Facts(throttle_bits=0x4))
        assert list(conditions(facts, history, Thresholds())) == []

    def test_a_bridge_that_was_up_must_stay_up(self) -> None:
        history = History()
        history.note(Facts(nvlinks_active=4))
        assert [finding.kind for finding in found(history, nvlinks_active=3)] == ["nvlink_down"]


class TestXids:
    def test_the_catalogue_is_whole(self) -> None:
        assert sorted(CATALOGUE) == list(range(1, 173))
        assert all(row.name for row in CATALOGUE.values())

    @pytest.mark.parametrize(
        ("xids", "action"),
        [
            ((43, 45, 38, 154, 162), "ignore"),
            ((13, 31, 94), "restart_app"),
            ((63, 92), "degrade"),
            ((61, 144, 200), "suspect"),
            ((46, 48, 62, 64, 74, 95, 109, 119, 120, 140, 171), "fail_reset"),
            ((79,), "fail_reboot"),
            ((54,), "fail_service"),
        ],
    )
    def test_actions(self, xids: tuple[int, ...], action: str) -> None:
        assert {action_of(xid, {}) for xid in xids} == {action}

    def test_every_xid_has_a_finding_with_reason_and_consequence(self) -> None:
        for xid in CATALOGUE:
            finding = finding_of_event(XID, xid, {})
            assert finding.key == f"xid:{xid}"
            assert finding.reason.startswith(f"XID {xid}: ")
            assert (finding.recovery is not None) == (finding.severity is Health.FAILED)
            assert finding.severity is Health.HEALTHY or finding.advice

    def test_an_application_error_counts_only_when_it_recurs(self) -> None:
        finding = finding_of_event(XID, 31, {})
        assert (finding.severity, finding.repeat_limit) == (Health.HEALTHY, 2)
        assert finding_of_event(XID, 43, {}).repeat_limit == 0

    def test_a_failure_stays_until_it_is_repaired(self) -> None:
        assert finding_of_event(XID, 79, {}).clears == "repaired"

    def test_an_event_of_a_later_driver_is_told_and_no_more(self) -> None:
        finding = finding_of_event(0x40000, 7, {})
        assert finding.severity is Health.HEALTHY
        assert "0x40000" in finding.reason

    def test_words_of_the_config(self) -> None:
        assert set(XID_ACTIONS) == set(CONSEQUENCES)
        assert set(EXCEPTIONS) <= set(CATALOGUE)
        options = NvmlOptions.model_validate({"xid_actions": {31: "ignore", 74: "fail_reset"}})
        assert options.xid_actions == {31: "ignore", 74: "fail_reset"}
        with pytest.raises(ValueError, match="fail_reset"):
            NvmlOptions.model_validate({"xid_actions": {31: "panic"}})


class TestFromTheDriver:
    """The same conditions, as NVML says them."""

    def test_each_on_a_gpu_of_its_own(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        cases: list[tuple[dict[str, Any], list[str]]] = [
            ({}, []),
            ({"remapped_rows": (0, 1, 1, 0)}, ["row_remap_pending"]),
            ({"remapped_rows": (0, 1, 0, 1)}, ["row_remap_failure"]),
            ({"recovery_action": 2}, ["recovery_action"]),
            ({"ecc.uncorrected.volatile.dram": 3}, ["ecc_uncorrected"]),
            ({"sram_ecc": (*(0,) * 11, 1)}, ["sram_ecc"]),
            ({"nvlink.3.state": 0}, ["nvlink_down"]),
            ({"clocks_event_reasons": 0x48}, ["hw_thermal_slowdown"]),
            ({"clocks_event_reasons": 0x4}, []),
        ]
        fake = make_fake_nvml(gpus=len(cases))
        with fake.changes():
            for number, (values, _) in enumerate(cases):
                fake.set(number, values)
        source = open_nvml_source(fake, thresholds={"slowdown_readings": 1})
        assert [kinds(reading) for reading in observe(source).readings] == [
            expected for _, expected in cases
        ]

    def test_pages_of_an_older_gpu(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        fake = make_fake_nvml(gpus=2, profile="v100")
        fake.set(1, {"field.30": "u64:60", "field.29": "u64:3", "field.31": "u64:1"})
        one, other = observe(open_nvml_source(fake)).readings
        assert kinds(one) == []
        assert kinds(other) == ["pages_retired", "page_retirement_pending"]
