"""The five kinds of part that a plugin may register, as commands name them."""

from typing import Literal, get_args

KindWord = Literal["engine", "device-source", "allocation", "recovery", "sink"]
KIND_WORDS: tuple[KindWord, ...] = get_args(KindWord)
