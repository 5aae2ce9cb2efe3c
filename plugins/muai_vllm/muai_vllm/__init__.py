"""The engine `vllm`: vLLM's own OpenAI server, planned, started and watched by MuAI."""
