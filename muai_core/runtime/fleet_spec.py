"""Devices that need not exist, in few words, such as `8xH100-80GB` or `4xA100-40GB,2xL4-24GB`."""

import re
from difflib import get_close_matches

from msgspec import Struct

from muai_core.model.cards import CARDS, CardName, GpuKind
from muai_core.model.device import LinkKind

#: GPUs of one box at most: their links grow with the square.
MOST_GPUS_OF_A_BOX = 64
MOST_GPUS = 10_000

NOTATION = (
    "write COUNTxCARD for one box, as in 8xH100-80GB, with commas for a mixed one, as in "
    "4xA100-40GB,2xL4-24GB, BOXESxCOUNTxCARD for several, as in 2x8xH100-80GB, "
    "or name an inventory file"
)

_LONGEST = 4000
_NODE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_NAMED = re.compile(rf"(?:({_NODE_NAME})=)?(.+)")
_GROUP = re.compile(r"(?:(\d{1,9})[x*])?(?:(\d{1,9})[x*])?([A-Za-z][\w-]*)")
_FOLDED: dict[str, CardName] = {name.lower(): name for name in CARDS}


class FleetError(ValueError):
    """Devices that cannot be understood; one line says where, what, and what is allowed."""


class CardGroup(Struct, frozen=True, kw_only=True):
    """GPUs of one kind in a box, one after the other."""

    #: Its name in the catalogue, or what the file calls it.
    name: str
    card: GpuKind
    count: int
    #: Held by others, on each.
    foreign_bytes: int = 0
    #: GPUs that reach each other over NVLink; None: as many as the card allows.
    island_size: int | None = None


class BoxLink(Struct, frozen=True, kw_only=True):
    """What lies between two GPUs of a box, by their indices."""

    between: tuple[int, int]
    kind: LinkKind
    nvlinks: int = 0


class Box(Struct, frozen=True, kw_only=True):
    """One node, or `count` equal ones."""

    #: None: it gets one. Several are numbered: NAME-0, NAME-1.
    name: str | None = None
    count: int = 1
    groups: tuple[CardGroup, ...]
    #: Held by others, by index of the GPU; stronger than that of its group.
    foreign_bytes: dict[int, int] = {}
    #: Instead of the links that the cards have.
    links: tuple[BoxLink, ...] = ()

    @property
    def gpu_count(self) -> int:
        return sum(group.count for group in self.groups)


def parse_spec(text: str) -> Box:
    """`[NODE=][BOXESx]COUNTxCARD[,COUNTxCARD]...` as boxes. Raises FleetError."""
    match = _NAMED.fullmatch(text.strip())
    if len(text) > _LONGEST:
        raise FleetError(f"{text[:40]!r} and so on is too long; {NOTATION}")
    if match is None:
        raise FleetError(f"{text!r} names no devices; {NOTATION}")
    name, rest = match.groups()
    groups = []
    boxes = 1
    parts = rest.split(",")
    for part in parts:
        found = _GROUP.fullmatch(part.strip())
        if found is None:
            raise FleetError(f"{part.strip()!r} is not understood; {NOTATION}")
        first, second, card_name = found.groups()
        if second is not None and len(parts) > 1:
            raise FleetError(
                f"{part.strip()!r}: a number of boxes cannot stand beside a comma, which joins "
                "cards of one box; give --devices once for each kind of box"
            )
        if second is not None:
            boxes, count = int(first), int(second)
        else:
            count = 1 if first is None else int(first)
        card = find_card(card_name)
        groups.append(CardGroup(name=card, card=CARDS[card], count=count))
    return checked(Box(name=name, count=boxes, groups=tuple(groups)), repr(text))


def find_card(name: str) -> CardName:
    """The card's name in the catalogue, however it is capitalised. Raises FleetError."""
    known = _FOLDED.get(name.lower())
    if known is not None:
        return known
    begun = [card for folded, card in _FOLDED.items() if folded.startswith(name.lower())]
    near = begun[:1] or [
        _FOLDED[one] for one in get_close_matches(name.lower(), _FOLDED, n=1, cutoff=0.6)
    ]
    meant = f"; did you mean {near[0]}?" if near else ""
    raise FleetError(f"there is no card {name!r}{meant or ';'} known: {', '.join(CARDS)}")


def checked(box: Box, where: str) -> Box:
    """The box, if its numbers are possible. Raises FleetError that begins with `where`."""
    if box.count < 1 or any(group.count < 1 for group in box.groups) or not box.groups:
        raise FleetError(f"{where}: there must be at least one GPU")
    if box.gpu_count > MOST_GPUS_OF_A_BOX:
        raise FleetError(
            f"{where}: {box.gpu_count} GPUs in one box; at most {MOST_GPUS_OF_A_BOX} are possible"
        )
    if box.count * box.gpu_count > MOST_GPUS:
        raise FleetError(
            f"{where}: {box.count * box.gpu_count} GPUs; at most {MOST_GPUS} are possible"
        )
    return box
