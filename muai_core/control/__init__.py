"""The control plane: facts in, intents out. Pure: no clock, no chance, no I/O, no threads."""
