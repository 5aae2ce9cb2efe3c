"""The engines by name."""

from muai_core.api.engine import ServedEngine
from muai_core.api.engine_config import DeepSpeedConfig, VLLMConfig


class VLLMEngine(ServedEngine[VLLMConfig]):
    """A model on vLLM. Needs muai-vllm, and vLLM in `config.python` or beside this program."""

    engine = "vllm"
    config_type = VLLMConfig


class DeepSpeedEngine(ServedEngine[DeepSpeedConfig]):
    """A model on DeepSpeed, with tensor and pipeline parallelism. Needs muai-deepspeed."""

    engine = "deepspeed"
    config_type = DeepSpeedConfig
