"""The server process of one replica: `python -m muai_transformers.worker --model ... --port N`.

Answers /health from its first second; torch and transformers are imported in the loading thread.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from muai_torch.generator import BatchGenerator, ServeOptions
from muai_torch.log_streams import end_process, forgive_full_disk
from muai_torch.source import SourceError, find_source

from muai_core.engine_server.serving import serve

if TYPE_CHECKING:
    from muai_torch.model import LoadedModel


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="muai_transformers.worker", description=__doc__)
    parser.add_argument("--model", required=True, help="folder, .gguf file or package:NAME/PATH")
    parser.add_argument("--served-model-name", help="the name clients use; default: --model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and answer together")
    parser.add_argument("--max-num-seqs", type=int, default=16, help="sequences in one batch")
    parser.add_argument("--kv-cache-bytes", type=int, help="default: a quarter of free memory")
    parser.add_argument("--num-threads", type=int, help="CPU threads; default: tuned")
    parser.add_argument("--cache-folder", type=Path, help="where unpacked GGUF weights are kept")
    parser.add_argument("--no-cache", action="store_true", help="unpack GGUF at every start")
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Serves until told to stop. Returns the exit status; 2: the arguments are wrong."""
    arguments = parse_arguments(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars make a log unreadable
    # Where DeepSpeed is installed, transformers imports it: it looks for GPUs and warns of a CPU.
    os.environ.setdefault("DS_ACCELERATOR", arguments.device.partition(":")[0])
    # By default the threads of a pass spin for milliseconds when they wait for each other, and
    # take the core from the very thread they wait for. libgomp reads this when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        source = find_source(arguments.model)
    except SourceError as error:
        print(f"--model {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return 2

    cores = _usable_cores()

    def load() -> "LoadedModel":
        import torch
        from muai_torch.loading import LoadOptions, default_cache_folder, load

        torch.set_num_threads(arguments.num_threads or cores)
        cache_folder = arguments.cache_folder or default_cache_folder()
        options = LoadOptions(
            source=source,
            dtype=arguments.dtype,
            device=arguments.device,
            trust_remote_code=arguments.trust_remote_code,
            cache_folder=None if arguments.no_cache else cache_folder,
        )
        return load(options)

    options = ServeOptions(
        max_model_len=arguments.max_model_len,
        max_num_seqs=arguments.max_num_seqs,
        kv_cache_bytes=arguments.kv_cache_bytes,
        cpu_threads=None if arguments.num_threads or arguments.device != "cpu" else cores,
    )
    generator = BatchGenerator(load, options)
    name = arguments.served_model_name or arguments.model
    return serve(generator, name, host=arguments.host, port=arguments.port)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    forgive_full_disk()
    # The computing thread may be inside torch; interpreter shutdown would crash.
    end_process(main(sys.argv[1:]))
