"""The process of one simulated replica: `python -m muai_simulated.worker SPEC`."""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct


class WorkerSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a worker is told, as JSON in its first argument."""

    model_name: str
    source: str
    host: str
    port: int
    replica_id: str
    epoch: int
    max_model_len: int
    #: Device UUID → bytes held there.
    memory_bytes: dict[str, int]
    #: What it tells of its memory at the end of loading.
    memory_line: str | None = None
    #: Device UUID → bytes that the device has.
    memory_total_bytes: dict[str, int]
    #: As `EngineOptions` validates them.
    options: dict[str, Any]
    owner_pid: int
    holdings_directory: str


def main(argv: list[str]) -> int:
    """Serve until told to stop; returns the exit status."""
    from muai_core.engine_server.serving import serve
    from muai_simulated.config import EngineOptions, FaultOptions
    from muai_simulated.faults import Faults, remember_connection
    from muai_simulated.generator import SimulatedGenerator
    from muai_simulated.holdings import Holding, OpenHolding

    spec = msgspec.json.decode(argv[0], type=WorkerSpec)
    options = EngineOptions.model_validate(spec.options)
    hit = options.faults.hit(spec.replica_id, spec.epoch)
    holding = OpenHolding(
        Path(spec.holdings_directory),
        Holding(
            pid=os.getpid(),
            owner_pid=spec.owner_pid,
            memory_bytes=spec.memory_bytes,
            max_num_seqs=options.max_num_seqs,
        ),
    )
    if (shortage := _shortage(spec)) is not None:
        sys.stderr.write(f"{shortage}\n")
        return 1
    generator = SimulatedGenerator(
        options,
        Faults(options.faults if hit else FaultOptions()),
        model=spec.source,
        max_model_len=spec.max_model_len,
        note_running=holding.note_running,
        last_words_of_loading=spec.memory_line,
    )
    return serve(
        generator,
        spec.model_name,
        host=spec.host,
        port=spec.port,
        middlewares=(remember_connection,),
    )


def _shortage(spec: WorkerSpec) -> str | None:
    """What a real engine says when its devices do not have the memory that it takes.

    Only what engines hold is counted, this one included, not what the device options call foreign.
    """
    from muai_simulated.holdings import tenants

    there = tenants(Path(spec.holdings_directory), spec.owner_pid)
    for uuid, total_bytes in spec.memory_total_bytes.items():
        held_bytes = sum(tenant.holding.memory_bytes.get(uuid, 0) for tenant in there)
        if held_bytes > total_bytes:
            wanted_gib = spec.memory_bytes[uuid] / 2**30
            free_gib = (total_bytes - held_bytes) / 2**30 + wanted_gib
            return (
                f"out of memory: {wanted_gib:.2f} GiB do not fit on {uuid}: "
                f"{free_gib:.2f} GiB of {total_bytes / 2**30:.2f} GiB are free"
            )
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
