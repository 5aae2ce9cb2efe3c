"""NVIDIA GPUs for MuAI: what they are, how they do, and when they fail, through NVML."""
