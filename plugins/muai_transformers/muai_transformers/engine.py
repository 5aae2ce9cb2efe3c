"""The engine `transformers`: one worker process per replica."""

from typing import TYPE_CHECKING

from muai_core import (
    Complaint,
    Deployment,
    Engine,
    LaunchRequest,
    LaunchSpec,
    ModelDescription,
    Suitability,
)
from muai_transformers.facts import ModelFacts, cpu_has_bfloat16, read_facts
from muai_transformers.source import ModelSource, SourceError, find_source

if TYPE_CHECKING:
    from pydantic import BaseModel

    from muai_transformers.config import TransformersOptions

DTYPES = ("auto", "float32", "bfloat16", "float16")
GIB = 2**30
#: The process without a model: interpreter, torch, transformers, and a prefill pass's tensors.
RUNTIME_BYTES = GIB
KV_CACHE_BYTES = GIB


class TransformersEngine(Engine):
    """Hugging Face folders and GGUF files, on one device."""

    name = "transformers"
    platforms = ("cuda", "cpu")

    def options_model(self) -> "type[BaseModel]":
        from muai_transformers.config import TransformersOptions

        return TransformersOptions

    def suits(self, deployment: Deployment) -> Suitability:
        try:
            source = find_source(deployment.source)
            facts = read_facts(source)
        except (SourceError, OSError, ValueError) as error:
            return Suitability(False, str(error))
        if facts.unsupported:
            return Suitability(False, f"{deployment.source} {facts.unsupported}")
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
        context, wanted = _facts(deployment).context_tokens, deployment.max_model_len
        if context is not None and wanted is not None and wanted > context:
            message = f"{wanted} is not possible: the model's context has {context} tokens"
            complaints.append(Complaint("max_model_len", message))
        return tuple(complaints)

    def memory(self, deployment: Deployment, model: ModelDescription | None) -> int | None:
        facts = _facts(deployment)
        kv_cache_bytes = _kv_cache_bytes(deployment, facts)
        if facts.parameters is None or kv_cache_bytes is None:
            return None
        return facts.parameters * _value_bytes(deployment) + kv_cache_bytes + RUNTIME_BYTES

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        deployment, options = request.deployment, _options(request.deployment)
        argv = [request.python, "-P", "-m", "muai_transformers.worker"]
        argv += ["--model", deployment.source, "--served-model-name", deployment.name]
        argv += ["--host", request.host, "--port", str(request.port), "--dtype", deployment.dtype]
        argv += ["--device", "cuda" if request.devices[0].platform == "cuda" else "cpu"]
        argv += ["--max-num-seqs", str(options.max_num_seqs)]
        kv_cache_bytes = _kv_cache_bytes(deployment, _facts(deployment))
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


def _source(deployment: Deployment) -> ModelSource | None:
    try:
        return find_source(deployment.source)
    except SourceError:
        return None  # `suits` reports it


def _facts(deployment: Deployment) -> ModelFacts:
    source = _source(deployment)
    try:
        return read_facts(source) if source is not None else ModelFacts()
    except (OSError, ValueError):
        return ModelFacts()  # `suits` reports it


def _value_bytes(deployment: Deployment) -> int:
    """Bytes of one weight, or of one key or value, in memory."""
    if deployment.dtype == "auto":
        return 2 if deployment.platforms[0] == "cuda" or cpu_has_bfloat16() else 4
    return 4 if deployment.dtype == "float32" else 2


def _kv_cache_bytes(deployment: Deployment, facts: ModelFacts) -> int | None:
    options = _options(deployment)
    if options.kv_cache_gib is not None:
        return int(options.kv_cache_gib * GIB)
    context_tokens = deployment.max_model_len or facts.context_tokens
    if context_tokens is None or facts.kv_values_per_token is None:
        return None
    context_bytes = context_tokens * facts.kv_values_per_token * _value_bytes(deployment)
    return min(options.max_num_seqs * context_bytes, max(KV_CACHE_BYTES, context_bytes))
