"""Text and tokens of the simulated model, and which word comes next.

A word follows from everything before it, as with a greedy language model: the same text goes on in
the same way on every replica, and an answer that broke off goes on, from its text or from its token
ids, exactly where it would have gone.

Token ids: 0 to 255 are bytes, then come the words without and the words with a leading space.
"""

import hashlib
import re
from collections.abc import Sequence

_TEXT = """
a able about above across act add after again air all along also always amber an and answer any
apple are area around as ask at autumn away back bank bare be beam bear because bed before begin
behind bell below beside best between bird birch blue board boat body book both branch bread bridge
bright bring broad brook brown build but by call calm came can candle care carry cedar center chair
change chart city clear climb clock close cloud coast cold come copper corn could count cover craft
cross dance dark dawn day deep deer desk did dinner do door down draw dream drift drive dry each
early earth east easy edge end even ever every eye fair fall far farm fast field find fire first
fish five flat floor flow fly follow food for forest form four free fresh from front full garden
gate gave gentle give glass go gold good grain gray great green ground grow had half hand harbor
has have hear heart help her here high hill his hold home hope house how ice if in into iron island
it its join journey just keep kind know lake lamp land last late lay leaf learn leave left less let
letter life light like line listen little long look loud low made make many map march mark may
meadow mean meet middle might mile mill mind mirror moon more morning most mountain move much music
must name near never new next night no north not note now oak ocean of off
"""
_WORDS = _TEXT.split()
assert len(_WORDS) == 256, "one word for each value of a byte"

_BARE = [word.encode() for word in _WORDS]
_SPACED = [b" " + word for word in _BARE]
_PIECES: list[bytes] = [bytes([value]) for value in range(256)] + _BARE + _SPACED
_FIRST_BARE, _FIRST_SPACED = 256, 512
_TOKEN_OF = {piece: token for token, piece in enumerate(_PIECES) if token >= _FIRST_BARE}
_SPLIT = re.compile(rb" ?[a-z]+|[^a-z]", re.DOTALL)
_SPACES = b" \n\t\r"

VOCABULARY_SIZE = len(_PIECES)


def encode(text: str) -> list[int]:
    """Token ids of a text: one for a known word, one per byte for everything else."""
    tokens: list[int] = []
    for piece in _SPLIT.findall(text.encode()):
        token = _TOKEN_OF.get(piece)
        if token is None:
            tokens.extend(piece)
        else:
            tokens.append(token)
    return tokens


def decode(tokens: Sequence[int]) -> bytes:
    """The text's bytes. Raises IndexError on an id outside the vocabulary."""
    return b"".join(map(_PIECES.__getitem__, tokens))


class Continuation:
    """The words that follow a text, one at a time."""

    def __init__(self, model: str, seed: int | None, text: bytes) -> None:
        """`model` and `seed` select one of the many ways in which a text can go on."""
        self._hash = hashlib.blake2b(f"{model}\0{seed or 0}\0".encode(), digest_size=8)
        self._hash.update(text)
        self._spaced = bool(text) and text[-1] not in _SPACES

    def next(self) -> tuple[int, str]:
        """The next token: its id and its text."""
        number = self._hash.digest()[0]
        token = (_FIRST_SPACED if self._spaced else _FIRST_BARE) + number
        piece = _PIECES[token]
        self._hash.update(piece)
        self._spaced = True
        return token, piece.decode()
