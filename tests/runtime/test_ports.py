import socket
from pathlib import Path

import pytest

from muai_core.runtime import ports
from muai_core.runtime.ports import LOOPBACK, NoFreePort, PortAllocator


def test_ports_are_bindable_and_never_handed_out_twice() -> None:
    allocator = PortAllocator()
    handed_out = [allocator.free_port() for _ in range(50)]
    assert len(set(handed_out)) == 50
    with socket.socket() as server:
        server.bind((LOOPBACK, handed_out[0]))


def test_ports_lie_outside_the_range_of_outgoing_connections() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if high - low > 40_000:
        pytest.skip("this kernel uses nearly all ports for outgoing connections")
    assert not low <= PortAllocator().free_port() <= high


def one_port_left(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(ports, "_ports_outside_ephemeral_range", lambda: range(port, port + 1))


def test_a_taken_port_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        one_port_left(monkeypatch, server.getsockname()[1])
        with pytest.raises(NoFreePort, match=r"no free port on 127\.0\.0\.1"):
            PortAllocator().free_port()


def test_a_port_is_handed_out_again_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    port = PortAllocator().free_port()
    one_port_left(monkeypatch, port)
    allocator = PortAllocator()
    assert allocator.free_port() == port
    with pytest.raises(NoFreePort):
        allocator.free_port()
    forgetful = PortAllocator(hold_s=0)
    assert [forgetful.free_port(), forgetful.free_port()] == [port, port]


def test_the_kernel_chooses_where_its_range_covers_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("1024 65535", "nonsense"):
        (tmp_path / "range").write_text(text)
        monkeypatch.setattr(ports, "_EPHEMERAL_RANGE_FILE", tmp_path / "range")
        assert PortAllocator().free_port() > 0
