"""MuAI engine for Hugging Face transformers: any decoder-only language model, on CPU or one GPU."""
