"""What MuAI's own workers share: loading, continuous batching and sampling with torch.

Importing the package, `source`, `cpu`, `sequence`, `threads` or `generator` imports no torch.
"""
