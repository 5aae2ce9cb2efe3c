"""Settings under which the gateway refuses to start, and what it says then."""

import socket

import pytest

from muai_core.gateway import (
    ExposedWithoutKeysError,
    Gateway,
    GatewaySettings,
    GatewaySettingsError,
    PortTakenError,
)
from muai_core.gateway.settings import check_exposure, load_keys


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_beyond_loopback_needs_keys(host, monkeypatch):
    monkeypatch.setenv("KEYS", "a")
    with pytest.raises(ExposedWithoutKeysError) as caught:
        check_exposure(GatewaySettings(host=host))
    assert "allow_unauthenticated" in str(caught.value)
    assert caught.value.option == "host"
    with pytest.raises(ExposedWithoutKeysError):
        Gateway(GatewaySettings(host=host))
    check_exposure(GatewaySettings(host=host, api_keys_env="KEYS"))
    check_exposure(GatewaySettings(host=host, allow_unauthenticated=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host):
    check_exposure(GatewaySettings(host=host))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        (b"", "holds no key"),
        (b"# only a comment\n\n", "holds no key"),
        (b"two words\n", "a space"),
        ("schl\u00fcssel\n".encode(), "not ASCII"),
        (b"\xff\xfe\n", "cannot read"),
    ],
)
def test_a_key_file_that_protects_nothing_is_an_error(tmp_path, content, said):
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GatewaySettingsError) as caught:
        load_keys(GatewaySettings(api_keys_file=str(path)))
    assert caught.value.option == "api_keys_file"
    assert said in str(caught.value)
    assert "words" not in str(caught.value)


@pytest.mark.parametrize("value", ["", " , ", None])
def test_an_unset_variable_is_an_error(value):
    environ = {} if value is None else {"KEYS": value}
    with pytest.raises(GatewaySettingsError) as caught:
        load_keys(GatewaySettings(api_keys_env="KEYS"), environ)
    assert "the variable KEYS" in str(caught.value)


async def test_a_taken_port_is_named_with_the_way_out():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        gateway = Gateway(GatewaySettings(port=port))
        with pytest.raises(PortTakenError) as caught:
            await gateway.start()
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert "gateway.port" in str(caught.value)
        await gateway.stop()


async def test_an_address_of_another_machine_is_named():
    gateway = Gateway(GatewaySettings(host="192.0.2.1", port=0, allow_unauthenticated=True))
    with pytest.raises(GatewaySettingsError) as caught:
        await gateway.start()
    assert caught.value.option == "host"
    await gateway.stop()
