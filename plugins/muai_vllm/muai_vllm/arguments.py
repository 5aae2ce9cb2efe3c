"""Arguments of vLLM's server that are passed through: their form, and whether it has them."""

import difflib
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DUMP = Path(__file__).with_name("parser_dump.py")
#: Importing vLLM takes about ten seconds on a busy machine.
_ASK_WITHIN_S = 60.0

#: What MuAI sets, and where a user says it instead.
RESERVED = {
    "model": "models.<name>.source",
    "served_model_name": "the model's name in models",
    "host": "gateway.host",
    "port": "gateway.port",
    "api_key": "the gateway's settings",
    "uds": "gateway.host",
    "dtype": "models.<name>.dtype",
    "max_model_len": "models.<name>.max_model_len",
    "kv_cache_dtype": "models.<name>.kv_cache_dtype",
    "tensor_parallel_size": "models.<name>.tensor_parallel_size",
    "pipeline_parallel_size": "models.<name>.pipeline_parallel_size",
    "data_parallel_size": "models.<name>.replicas",
    "distributed_executor_backend": "nothing: a replica spans one node",
    "kv_cache_memory_bytes": "models.<name>.concurrency and max_model_len",
    "gpu_memory_utilization": "models.<name>.concurrency and max_model_len",
    "max_num_seqs": "engine_options.max_num_seqs",
    "max_num_batched_tokens": "engine_options.max_num_batched_tokens",
    "enforce_eager": "engine_options.enforce_eager",
    "quantization": "engine_options.quantization",
    "trust_remote_code": "engine_options.trust_remote_code",
}


def as_flags(arguments: Mapping[str, Any]) -> list[str]:
    """`{"seed": 1, "async_scheduling": False}` → `["--seed", "1", "--no-async-scheduling"]`."""
    flags: list[str] = []
    for name, value in sorted(arguments.items()):
        flag = name.replace("_", "-")
        if value is True:
            flags.append(f"--{flag}")
        elif value is False:
            flags.append(f"--no-{flag}")
        elif isinstance(value, list):
            flags += [f"--{flag}", *(str(one) for one in value)]
        elif isinstance(value, dict):
            flags += [f"--{flag}", json.dumps(value)]
        elif value is not None:
            flags += [f"--{flag}", str(value)]
    return flags


def mistakes(
    arguments: Mapping[str, Any], known: Mapping[str, list[str] | None] | None, version: str
) -> list[tuple[str, str]]:
    """Argument and what is wrong with it, for all of them. `known` None: it cannot be told."""
    found: list[tuple[str, str]] = []
    for name, value in sorted(arguments.items()):
        plain = name.replace("-", "_")
        bare = plain.removeprefix("no_")
        if (instead := RESERVED.get(plain) or RESERVED.get(bare)) is not None:
            found.append((name, f"is MuAI's to set; say it with {instead}"))
        elif known is not None and plain not in known:
            close = difflib.get_close_matches(plain, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            found.append((name, f"vLLM {version} has no such argument{hint}"))
        elif known is not None and isinstance(value, str):
            choices = known[plain]
            if choices and value not in choices:
                found.append((name, f"{value!r}: vLLM {version} allows {', '.join(choices)}"))
    return found


def known_arguments(python: str, version: str) -> dict[str, list[str] | None] | None:
    """What the server of this installation takes, and the allowed values where they are listed.

    Asked once per installation, which takes seconds; then read from the user's cache. None: it
    could not be asked.
    """
    kept = _cache_file(python, version)
    try:
        content: dict[str, list[str] | None] = json.loads(kept.read_text("utf-8"))
        return content
    except (OSError, ValueError):
        known = _ask(python)
    if known is not None:
        _keep(kept, known)
    return known


def _ask(python: str) -> dict[str, list[str] | None] | None:
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    try:
        done = subprocess.run(
            [python, "-P", str(_DUMP)],
            capture_output=True,
            timeout=_ASK_WITHIN_S,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=True,
        )
        # Some versions greet on stdout before.
        answer: dict[str, list[str] | None] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None
    return answer


def _cache_file(python: str, version: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    identity = hashlib.sha256(f"{python} {version}".encode()).hexdigest()[:16]
    return Path(home).expanduser() / "muai" / "vllm-arguments" / f"{identity}.json"


def _keep(path: Path, known: Mapping[str, list[str] | None]) -> None:
    """A cache that cannot be written only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(known, file)
        Path(file.name).replace(path)
    except OSError:
        return
