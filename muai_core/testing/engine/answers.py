"""Clauses of engines."""
