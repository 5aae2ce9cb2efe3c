"""The engine `deepspeed`: a launcher and one worker process for each rank."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs
from muai_torch.cpu import cpu_has_bfloat16
from muai_torch.source import SourceError, find_source

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
    Suitability,
    UnknownFamily,
    describe_model,
    engine_profile,
    installed_version,
)
from muai_deepspeed.exits import failure_of
from muai_deepspeed.families import broken_reason

if TYPE_CHECKING:
    from pydantic import BaseModel

    from muai_deepspeed.config import DeepSpeedOptions

DTYPES = ("auto", "float32", "bfloat16", "float16")
#: Endings of the class names of decoder-only language models.
DECODERS = ("ForCausalLM", "LMHeadModel")
#: What each rank says once it has its part of the model.
_PART = re.compile(r"layers (\d+) to (\d+), shard (\d+) of (\d+)")


class DeepSpeedEngine(Engine):
    """Hugging Face folders and GGUF files over any number of GPUs, or processes on a CPU."""

    name = "deepspeed"
    platforms = ("cuda", "cpu")
    auto_priority = -10
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
    )

    def options_model(self) -> "type[BaseModel]":
        from muai_deepspeed.config import DeepSpeedOptions

        return DeepSpeedOptions

    def suits(self, deployment: Deployment) -> Suitability:
        version = installed_version(self.python, "deepspeed")
        if version is None:
            how = "pip install muai-deepspeed, or name its interpreter in engines.deepspeed.python"
            return Suitability(False, f"DeepSpeed is not installed for {self.python}: {how}")
        try:
            model = _described(deployment)
        except UnknownFamily as error:
            # Code that the model brings along may know it.
            return Suitability(_options(deployment).trust_remote_code, str(error))
        except (SourceError, ModelError) as error:
            return Suitability(False, str(error))
        refusal = _refusal(deployment, model)
        if refusal is not None:
            return Suitability(False, refusal)
        return Suitability(True, f"DeepSpeed {version} splits it over processes")

    def check(self, deployment: Deployment) -> tuple[Complaint, ...]:
        complaints: list[Complaint] = []
        if deployment.dtype not in DTYPES:
            allowed = ", ".join(DTYPES)
            complaints.append(Complaint("dtype", f"{deployment.dtype}: allowed are {allowed}"))
        try:
            context = _described(deployment).architecture.context_tokens
        except (SourceError, ModelError):
            context = None  # `suits` reports it
        wanted = deployment.max_model_len
        if context is not None and wanted is not None and wanted > context:
            message = f"{wanted} is not possible: the model's context has {context} tokens"
            complaints.append(Complaint("max_model_len", message))
        return tuple(complaints)

    def memory(
        self, deployment: Deployment, model: ModelDescription | None
    ) -> MemoryProfile | None:
        profile = engine_profile(self.name, deployment.platforms[0])
        if profile is None or model is None:
            return None
        on_gpu = deployment.platforms[0] == "cuda"
        dtype = "bfloat16" if on_gpu or cpu_has_bfloat16() else "float32"
        return structs.replace(profile, auto_dtype=dtype)

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        deployment, options = request.deployment, _options(request.deployment)
        on_cuda = request.devices[0].platform == "cuda"
        argv = [request.python, "-P", "-m", "muai_deepspeed.launcher"]
        argv += ["--model", deployment.source, "--served-model-name", deployment.name]
        argv += ["--host", request.host, "--port", str(request.port), "--dtype", deployment.dtype]
        argv += ["--device", "cuda" if on_cuda else "cpu"]
        argv += ["--tensor-parallel-size", str(deployment.tensor_parallel_size)]
        argv += ["--pipeline-parallel-size", str(deployment.pipeline_parallel_size)]
        argv += ["--max-num-seqs", str(options.max_num_seqs)]
        layers = ",".join(str(count) for count in request.layers) or None
        for flag, value in (
            ("--layers", layers),
            ("--max-model-len", deployment.max_model_len),
            ("--kv-cache-bytes", _kv_cache_bytes(request)),
            ("--num-threads", options.num_threads),
            ("--rank-timeout-s", options.rank_timeout_s),
        ):
            if value is not None:
                argv += [flag, str(value)]
        for flag, wanted in (
            ("--skip-self-check", not options.self_check),
            ("--trust-remote-code", options.trust_remote_code),
        ):
            if wanted:
                argv.append(flag)
        return LaunchSpec(
            argv=tuple(argv),
            env={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            host=request.host,
            port=request.port,
            served_model_name=deployment.name,
            rank_processes=r"muai_deepspeed\.worker",
            exclusive_start=on_cuda,
        )

    def verify(self, request: LaunchRequest, log: str) -> str | None:
        """Every rank tells its layers and its shard."""
        parts = {tuple(map(int, match.groups())) for match in _PART.finditer(log)}
        if not parts:
            return None
        planned = _planned_parts(request)
        if planned is None or parts == planned:
            return None
        return f"the ranks hold {_in_words(parts)}; planned are {_in_words(planned)}"

    def classify(self, evidence: ExitEvidence) -> Failure | None:
        return failure_of(evidence)


def _options(deployment: Deployment) -> "DeepSpeedOptions":
    from muai_deepspeed.config import DeepSpeedOptions

    return DeepSpeedOptions.model_validate(deployment.engine_options)


def _described(deployment: Deployment) -> ModelDescription:
    """Raises SourceError and ModelError."""
    source = find_source(deployment.source)
    return describe_model(source.gguf_path or source.folder)


def _refusal(deployment: Deployment, model: ModelDescription) -> str | None:
    architecture = model.architecture
    names = architecture.class_names
    if names and not any(name.endswith(DECODERS) for name in names):
        return f"{Path(deployment.source).name} is {', '.join(names)}, no decoder-only model"
    if not {"linear", "none"}.isdisjoint(architecture.layer_kinds):
        return "it has layers without attention, which this engine cannot batch"
    return broken_reason(architecture.model_type, deployment.tensor_parallel_size)


def _kv_cache_bytes(request: LaunchRequest) -> int | None:
    """One bound for all ranks: that of the stage whose tokens take the most."""
    return max((rank.kv_cache_bytes for rank in request.ranks), default=None)


def _planned_parts(request: LaunchRequest) -> set[tuple[int, ...]] | None:
    """First and last layer, shard and number of shards, of every rank; None: not planned."""
    shards = request.deployment.tensor_parallel_size
    if not request.layers:
        return None
    parts: set[tuple[int, ...]] = set()
    begin = 0
    for count in request.layers:
        parts |= {(begin, begin + count - 1, shard + 1, shards) for shard in range(shards)}
        begin += count
    return parts


def _in_words(parts: set[tuple[int, ...]]) -> str:
    return "; ".join(f"layers {a} to {b} shard {n} of {m}" for a, b, n, m in sorted(parts))
