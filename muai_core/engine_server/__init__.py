"""An OpenAI-compatible server front end over any text generator.

Engine workers that bring no server of their own implement `TextGenerator` (protocol.py), make
text out of tokens with `TextStream` (stop.py) and call `serve` (serving.py).
"""
