"""The asyncio shell around the control plane: processes, probes, executor, journal."""
