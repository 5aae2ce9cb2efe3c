"""Fakes that keep every clause, and for every clause one that breaks it and no other.

They prove that the kits tell right from wrong.
"""
