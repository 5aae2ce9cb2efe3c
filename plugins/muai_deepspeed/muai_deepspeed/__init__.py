"""MuAI engine for DeepSpeed: tensor parallelism by AutoTP, pipeline stages over sockets."""
