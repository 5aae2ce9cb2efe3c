"""What MuAI measures: the catalogue of metrics, a registry for what happens, and pure collectors
that turn facts into metric families. No I/O and no clock in here; sinks carry the families away.
"""
