"""The environment that an engine starts with: little, and nothing secret of the controller's."""

from collections.abc import Mapping

from muai_core.model.device import Device

_INHERITED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR",
        "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    }
)  # fmt: skip
#: Proxies are looked up in both cases by the libraries that use them.
_INHERITED_IN_ANY_CASE = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
#: Settings of the stacks that engines are made of. HF_TOKEN is among them: gated models need it.
_INHERITED_PREFIXES = (
    "LC_", "XDG_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TORCH", "PYTORCH_", "TRITON_",
    "NVIDIA_", "NCCL_", "GLOO_", "UCX_", "OMP_", "GOMP_", "MKL_", "OPENBLAS_", "KMP_", "VLLM_",
    "DS_", "DEEPSPEED_",
)  # fmt: skip
#: It would lock our own gateway out.
_NEVER_INHERITED = frozenset({"VLLM_API_KEY"})
_DEFAULTS = {
    # Without it a killed engine's last words die in a buffer.
    "PYTHONUNBUFFERED": "1",
    # A crash in native code leaves a traceback in the log.
    "PYTHONFAULTHANDLER": "1",
    # setproctitle, which vLLM uses, otherwise overwrites the environment in /proc, and with it the
    # marker by which a replica's processes are recognised.
    "SPT_NOENV": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


def compose_environment(own: Mapping[str, str], engine: Mapping[str, str]) -> dict[str, str]:
    """What an engine gets: a minimum of the controller's environment, our defaults, its own.

    The later wins. Nothing that begins with MUAI_ is inherited, nor CUDA_VISIBLE_DEVICES: which
    devices a replica sees is the plan's decision.
    """
    inherited = {name: value for name, value in own.items() if _is_inherited(name)}
    return {**inherited, **_DEFAULTS, **engine}


def device_environment(devices: tuple[Device, ...]) -> dict[str, str]:
    """What makes a process see exactly its devices, by UUID and in rank order."""
    cuda = [device.uuid for device in devices if device.platform == "cuda"]
    return {"CUDA_VISIBLE_DEVICES": ",".join(cuda)}


def _is_inherited(name: str) -> bool:
    return name not in _NEVER_INHERITED and (
        name in _INHERITED
        or name.lower() in _INHERITED_IN_ANY_CASE
        or name.startswith(_INHERITED_PREFIXES)
    )
