"""An allocation strategy on OR-tools CP-SAT: plans that are proven optimal, or state the gap."""

from muai_cpsat.strategy import Answer, CpSat, answer

__all__ = ["Answer", "CpSat", "answer"]
