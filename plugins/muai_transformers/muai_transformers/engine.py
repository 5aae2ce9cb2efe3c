"""The engine `transformers`: one worker process per replica."""

from muai_core import Complaint, Deployment, Engine, LaunchRequest, LaunchSpec, Suitability
from muai_transformers.source import SourceError, find_source


class TransformersEngine(Engine):
    """Hugging Face folders and GGUF files, on one device."""

    name = "transformers"
    platforms = ("cuda", "cpu")

    def suits(self, deployment: Deployment) -> Suitability:
        try:
            source = find_source(deployment.source)
        except SourceError as error:
            return Suitability(False, str(error))
        kind = "GGUF file" if source.gguf_file else "Hugging Face folder"
        return Suitability(True, f"loads a {kind}")

    def check(self, deployment: Deployment) -> tuple[Complaint, ...]:
        return tuple(
            Complaint(key, f"{size} is not possible: engine transformers uses one device")
            for key, size in (
                ("tensor_parallel_size", deployment.tensor_parallel_size),
                ("pipeline_parallel_size", deployment.pipeline_parallel_size),
            )
            if size != 1
        )

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        deployment = request.deployment
        argv = [request.python, "-P", "-m", "muai_transformers.worker"]
        argv += ["--model", deployment.source, "--served-model-name", deployment.name]
        argv += ["--host", request.host, "--port", str(request.port), "--dtype", deployment.dtype]
        argv += ["--device", "cuda" if request.devices[0].platform == "cuda" else "cpu"]
        if deployment.max_model_len is not None:
            argv += ["--max-model-len", str(deployment.max_model_len)]
        return LaunchSpec(
            argv=tuple(argv),
            host=request.host,
            port=request.port,
            served_model_name=deployment.name,
        )
