"""Simulated GPUs and a simulated engine: rehearse a MuAI config on a laptop."""
