"""One rank of a replica: `python -m muai_deepspeed.worker --rank R --world-size N ...`.

Rank 0 serves HTTP and answers /health from its first second; the others follow its commands.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from muai_torch.generator import BatchGenerator, ServeOptions
from muai_torch.log_streams import end_process, forgive_full_disk
from muai_torch.source import SourceError, find_source

from muai_core.engine_server.serving import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from muai_torch.passes import BatchModel
    from muai_torch.source import ModelSource

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
#: How long a rank may be silent before the replica is given up.
RANK_TIMEOUT_S = 30.0

_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the launcher passes on to every rank."""
    parser.add_argument("--model", required=True, help="folder, .gguf file or package:NAME/PATH")
    parser.add_argument("--served-model-name", help="the name clients use; default: --model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, required=True)
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--max-model-len", type=_positive, help="tokens of prompt and answer together"
    )
    parser.add_argument("--max-num-seqs", type=_positive, default=16, help="sequences in one batch")
    parser.add_argument("--kv-cache-bytes", type=_positive, help="in every rank")
    parser.add_argument("--tensor-parallel-size", type=_positive, default=1)
    parser.add_argument("--pipeline-parallel-size", type=_positive, default=1)
    parser.add_argument(
        "--layers", type=_layers, help="layers of each stage, as in 3,3; default: even"
    )
    parser.add_argument("--num-threads", type=_positive, help="CPU threads of each rank")
    parser.add_argument(
        "--rank-timeout-s",
        type=_seconds,
        default=RANK_TIMEOUT_S,
        help="how long a rank may be silent, or keep others waiting, before all end",
    )
    parser.add_argument("--cache-folder", type=Path, help="where unpacked GGUF weights are kept")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--skip-self-check", action="store_true")


def _positive(text: str) -> int:
    return int(_number(text, int, 1, 2**63 - 1))


def _port(text: str) -> int:
    return int(_number(text, int, 1, 2**16 - 1))


def _seconds(text: str) -> float:
    return _number(text, float, 0.1, 86_400)


def _layers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _number(text: str, kind: "Callable[[str], float]", least: float, most: float) -> float:
    try:
        number = kind(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {least} to {most}")
    return number


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="muai_deepspeed.worker", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--master-port", type=int, help="where the ranks meet")
    arguments = parser.parse_args(argv)
    shards, stages = arguments.tensor_parallel_size, arguments.pipeline_parallel_size
    if arguments.world_size != shards * stages:
        parser.error(f"--world-size must be {shards} x {stages}, the product of the two sizes")
    if not 0 <= arguments.rank < arguments.world_size:
        parser.error(f"--rank must be from 0 to {arguments.world_size - 1}")
    if arguments.world_size > 1 and arguments.master_port is None:
        parser.error("--master-port is needed for more than one rank")
    return arguments


def main(argv: list[str]) -> int:
    """Returns the exit status; 1: it failed or lost another rank, 2: the arguments are wrong."""
    arguments = parse_arguments(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars make a log unreadable
    # Threads that spin while they wait take the core from the very rank they wait for.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["DS_ACCELERATOR"] = arguments.device  # transformers imports DeepSpeed, too
    try:
        source = find_source(arguments.model)
    except SourceError as error:
        print(f"--model {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return 2
    return lead(arguments, source) if arguments.rank == 0 else follow(arguments, source)


def lead(arguments: argparse.Namespace, source: "ModelSource") -> int:
    """Rank 0: loads its stage in the generator's thread, serves, and stops the others."""
    stops = threading.Event()
    on_stop = []

    def load() -> "BatchModel":
        from muai_deepspeed.assembly import lead_replica
        from muai_deepspeed.stage import RefusedError

        try:
            model = lead_replica(arguments, source)
        except RefusedError as error:
            _logger.error("muai_deepspeed: refused: %s", error)
            raise
        on_stop.append(model.followers.stop)
        if stops.is_set():
            model.followers.stop()
        return model

    one_process = arguments.world_size == 1 and arguments.device == "cpu"
    options = ServeOptions(
        max_model_len=arguments.max_model_len,
        max_num_seqs=arguments.max_num_seqs,
        kv_cache_bytes=arguments.kv_cache_bytes,
        cpu_threads=usable_cores() if one_process and not arguments.num_threads else None,
    )
    name = arguments.served_model_name or arguments.model
    status = serve(BatchGenerator(load, options), name, host=arguments.host, port=arguments.port)
    stops.set()
    if status == 0:
        for stop in on_stop:
            stop()
    return status


def follow(arguments: argparse.Namespace, source: "ModelSource") -> int:
    """Any other rank. Ends with the process of rank 0, or when that says so."""
    rank_format = LOG_FORMAT.replace("%(message)s", f"rank {arguments.rank}: %(message)s")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=rank_format)
    from muai_deepspeed.assembly import follow_replica
    from muai_deepspeed.messages import PeerLostError
    from muai_deepspeed.ranks import verdict_first
    from muai_deepspeed.stage import RefusedError

    def connected() -> None:
        # Requests that run get their grace: rank 0 knows when all ranks are to end.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    try:
        with verdict_first():
            follow_replica(arguments, source, connected)
    except RefusedError as error:
        _logger.error("muai_deepspeed: refused: %s", error)
    except PeerLostError as error:
        _logger.error("muai_deepspeed: lost another rank: %s", error)
    except Exception:
        _logger.exception("muai_deepspeed: this rank failed")
    return 1


def usable_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    forgive_full_disk()
    # The computing thread may be inside torch; interpreter shutdown would crash.
    end_process(main(sys.argv[1:]))
