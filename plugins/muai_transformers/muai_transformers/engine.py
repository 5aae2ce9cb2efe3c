"""The engine `transformers`: one worker process per replica."""

from typing import TYPE_CHECKING

from msgspec import structs
from muai_torch.cpu import cpu_has_bfloat16
from muai_torch.source import SourceError, find_source

from muai_core import (
    Architecture,
    Complaint,
    Deployment,
    Engine,
    LaunchRequest,
    LaunchSpec,
    MemoryProfile,
    ModelDescription,
    ModelError,
    Suitability,
    UnknownFamily,
    describe_model,
    engine_profile,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from muai_transformers.config import TransformersOptions

DTYPES = ("auto", "float32", "bfloat16", "float16")
VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 2**30
KV_CACHE_BYTES = GIB
#: Endings of the class names of decoder-only language models.
DECODERS = ("ForCausalLM", "LMHeadModel")


class TransformersEngine(Engine):
    """Hugging Face folders and GGUF files, on one device."""

    name = "transformers"
    platforms = ("cuda", "cpu")
    capabilities = (
        "streaming",
        "abort",
        "stop_strings",
        "seed",
        "logprobs",
        "token_ids",
        "continue_final_message",
    )

    def options_model(self) -> "type[BaseModel]":
        from muai_transformers.config import TransformersOptions

        return TransformersOptions

    def suits(self, deployment: Deployment) -> Suitability:
        try:
            source = find_source(deployment.source)
            model = describe_model(source.gguf_path or source.folder)
        except UnknownFamily as error:
            # Code that the model brings along may know it.
            return Suitability(_options(deployment).trust_remote_code, str(error))
        except (SourceError, ModelError) as error:
            return Suitability(False, str(error))
        unsupported = _unsupported(model.architecture)
        if unsupported is not None:
            return Suitability(False, f"{deployment.source} {unsupported}")
        kind = "GGUF file" if source.gguf_file else "Hugging Face folder"
        return Suitability(True, f"loads a {kind}")

    def check(self, deployment: Deployment) -> tuple[Complaint, ...]:
        complaints = [
            Complaint(field, f"{size} is not possible: engine transformers uses one device")
            for field, size in (
                ("tensor_parallel_size", deployment.tensor_parallel_size),
                ("pipeline_parallel_size", deployment.pipeline_parallel_size),
            )
            if size != 1
        ]
        if deployment.dtype not in DTYPES:
            allowed = ", ".join(DTYPES)
            complaints.append(Complaint("dtype", f"{deployment.dtype}: allowed are {allowed}"))
        model = _model(deployment)
        context = model.architecture.context_tokens if model is not None else None
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
        return structs.replace(
            profile,
            kv_cache_bytes=_kv_cache_bytes(deployment, model),
            auto_dtype=_auto_dtype(deployment),
        )

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        deployment, options = request.deployment, _options(request.deployment)
        argv = [request.python, "-P", "-m", "muai_transformers.worker"]
        argv += ["--model", deployment.source, "--served-model-name", deployment.name]
        argv += ["--host", request.host, "--port", str(request.port), "--dtype", deployment.dtype]
        argv += ["--device", "cuda" if request.devices[0].platform == "cuda" else "cpu"]
        argv += ["--max-num-seqs", str(options.max_num_seqs)]
        kv_cache_bytes = _kv_cache_bytes(deployment, _model(deployment))
        for flag, value in (
            ("--max-model-len", deployment.max_model_len),
            ("--kv-cache-bytes", kv_cache_bytes),
            ("--num-threads", options.num_threads),
        ):
            if value is not None:
                argv += [flag, str(value)]
        for flag, wanted in (
            ("--no-cache", not options.keep_unpacked),
            ("--trust-remote-code", options.trust_remote_code),
        ):
            if wanted:
                argv.append(flag)
        return LaunchSpec(
            argv=tuple(argv),
            host=request.host,
            port=request.port,
            served_model_name=deployment.name,
        )


def _options(deployment: Deployment) -> "TransformersOptions":
    from muai_transformers.config import TransformersOptions

    return TransformersOptions.model_validate(deployment.engine_options)


def _model(deployment: Deployment) -> ModelDescription | None:
    try:
        source = find_source(deployment.source)
        return describe_model(source.gguf_path or source.folder)
    except (SourceError, ModelError):
        return None  # `suits` reports it


def _unsupported(architecture: Architecture) -> str | None:
    """Why this engine cannot serve the model at all."""
    names = architecture.class_names
    if names and not any(name.endswith(DECODERS) for name in names):
        return f"is {', '.join(names)}, which is not a decoder-only language model"
    if not {"linear", "none"}.isdisjoint(architecture.layer_kinds):
        return "has layers without attention, which this engine cannot batch"
    return None


def _auto_dtype(deployment: Deployment) -> str:
    """What the worker makes of `dtype: auto`: on some GPUs float16, which is as large."""
    on_gpu = deployment.platforms[0] == "cuda"
    return "bfloat16" if on_gpu or cpu_has_bfloat16() else "float32"


def _kv_cache_bytes(deployment: Deployment, model: ModelDescription | None) -> int | None:
    """Room for all running requests; None: as much as they turn out to need."""
    options = _options(deployment)
    if options.kv_cache_gib is not None:
        return int(options.kv_cache_gib * GIB)
    if model is None:
        return None
    architecture = model.architecture
    context_tokens = deployment.max_model_len or architecture.context_tokens
    if context_tokens is None:
        return None
    dtype = _auto_dtype(deployment) if deployment.dtype == "auto" else deployment.dtype
    layers = architecture.layer_count - len(architecture.kv_shared_layers)
    values = architecture.kv_heads * (architecture.key_head_size + architecture.value_head_size)
    context_bytes = context_tokens * layers * values * VALUE_BYTES[dtype]
    wanted_bytes = deployment.concurrency * context_bytes
    return max(wanted_bytes, min(options.max_num_seqs * context_bytes, KV_CACHE_BYTES))
