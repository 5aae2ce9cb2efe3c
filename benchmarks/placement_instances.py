"""Placement problems for benchmarks: fleets and models as people have them, drawn from seeds.

Cards, links and the mixed clusters follow public descriptions: the clusters of Helix (ASPLOS '25,
arXiv 2406.01566: T4, L4 and A100 nodes in the shares of its 10- and 24-GPU set-ups), DGX boxes of
eight GPUs on NVLink, two-socket servers with eight PCIe cards. Models are text models by the
figures of their published config.json; the memory of a rank is weights and KV cache by the usual
formulas plus fixed terms, which is all that a placement sees of them.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from muai_core.model.deployment import Affinity, Deployment
from muai_core.model.device import Device, DeviceLink, LinkKind
from muai_core.model.fleet import DeviceView, Fleet, PlacementProblem, PlacementRequest
from muai_core.model.health import Health
from muai_core.model.memory import MemoryNeeds, ShardedMemory

GIB = 1024**3
#: No instance is larger: what the optimum can be proven for.
MAX_DEVICES = 16
MAX_REQUESTS = 20


class Card(NamedTuple):
    name: str
    memory_gib: int


T4, L4, A10 = Card("T4", 16), Card("L4", 24), Card("A10", 24)
RTX3090, RTX4090, A6000, L40S = (
    Card("RTX 3090", 24),
    Card("RTX 4090", 24),
    Card("RTX A6000", 48),
    Card("L40S", 48),
)
A100_40, A100_80, H100 = Card("A100-40GB", 40), Card("A100-80GB", 80), Card("H100-80GB", 80)


class Text(NamedTuple):
    """A text model: layers, hidden size, feed-forward size (of all experts), heads, KV heads, head
    size, vocabulary, bytes per weight."""

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    weight_bytes: float = 2.0
    tied: bool = False


SMALL = (
    Text("SmolLM2-135M", 30, 576, 1536, 9, 3, 64, 49152, tied=True),
    Text("Qwen2.5-0.5B", 24, 896, 4864, 14, 2, 64, 151936, tied=True),
    Text("Llama-3.2-1B", 16, 2048, 8192, 32, 8, 64, 128256, tied=True),
    Text("Qwen2.5-1.5B", 28, 1536, 8960, 12, 2, 128, 151936, tied=True),
    Text("Llama-3.2-3B", 28, 3072, 8192, 24, 8, 128, 128256, tied=True),
    Text("Qwen2.5-7B-AWQ", 28, 3584, 18944, 28, 4, 128, 152064, 0.56),
)
MIDDLE = (
    Text("Mistral-7B", 32, 4096, 14336, 32, 8, 128, 32768),
    Text("Qwen2.5-7B", 28, 3584, 18944, 28, 4, 128, 152064),
    Text("Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128, 128256),
    Text("Qwen2.5-14B", 48, 5120, 13824, 40, 8, 128, 152064),
    Text("Mistral-Small-24B", 40, 5120, 32768, 32, 8, 128, 131072),
    Text("Llama-3.1-70B-AWQ", 80, 8192, 28672, 64, 8, 128, 128256, 0.56),
)
LARGE = (
    Text("Qwen2.5-32B", 64, 5120, 27648, 40, 8, 128, 152064),
    Text("Qwen3-30B-A3B", 48, 2048, 98304, 32, 4, 128, 151936),
    Text("Mixtral-8x7B", 32, 4096, 114688, 32, 8, 128, 32000),
    Text("Llama-3.1-70B", 80, 8192, 28672, 64, 8, 128, 128256),
    Text("Qwen2.5-72B", 80, 8192, 29568, 64, 8, 128, 152064),
)


def memory_needs(
    model: Text, tokens: int, sizes: tuple[int, ...], stages: tuple[int, ...]
) -> MemoryNeeds:
    """Dense grouped-query attention on those of the shapes that divide the heads."""
    return MemoryNeeds(
        sharded=tuple(
            _sharded(model, size, tokens, stages) for size in sizes if model.heads % size == 0
        ),
        context_tokens=tokens,
        concurrency=1,
    )


def _sharded(model: Text, size: int, tokens: int, stages: tuple[int, ...]) -> ShardedMemory:
    kv_heads = max(1, model.kv_heads // size)
    attention = model.hidden * model.head * (2 * model.heads // size + 2 * kv_heads)
    layer = int((attention + 3 * model.hidden * model.ffn // size) * model.weight_bytes)
    embedding = 2 * model.vocabulary * model.hidden // size
    per_token = 2 * 2 * kv_heads * model.head
    activation = 2048 * (4 * model.hidden + 2 * model.hidden * 4 // size) * 2
    return ShardedMemory(
        tensor_parallel_size=size,
        pipeline_parallel_sizes=tuple(n for n in stages if n * size <= 8),
        layer_weights_bytes=(layer,) * model.layers,
        first_stage_weights_bytes=embedding,
        last_stage_weights_bytes=embedding,
        tied_weights_bytes=embedding if model.tied else 0,
        layer_kv_cache_bytes=(per_token * tokens,) * model.layers,
        layer_kv_bytes_per_token=(per_token,) * model.layers,
        activation_bytes=activation,
        last_stage_activation_bytes=max(activation, 256 * model.vocabulary * 4 // size),
        overhead_bytes=GIB // 2 + (GIB // 4 if size > 1 else 0),
        pipeline_overhead_bytes=GIB // 8,
    )


class Instance(NamedTuple):
    kind: str
    seed: int
    problem: PlacementProblem


class _Draft:
    """A fleet and its wishes, while they are drawn."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.views: list[DeviceView] = []
        self.links: dict[str, dict[str, DeviceLink]] = {}
        self.deployments: list[Deployment] = []

    # Fleets.

    def node(self, cards: list[Card], link: Callable[[int, int], LinkKind] | None = None) -> None:
        """A node with these cards; `link` tells what lies between two of them, by index."""
        name = f"node-{len({view.device.node for view in self.views})}"
        islands = _islands(len(cards), link)
        added = []
        for index, card in enumerate(cards):
            island = islands.get(index)
            device = Device(
                uuid=f"GPU-{len(self.views):02}",
                node=name,
                index=index,
                kind="gpu",
                platform="cuda",
                name=card.name,
                memory_total_bytes=card.memory_gib * GIB,
                island=None if island is None else f"{name}/{island}",
                numa_node=0 if index < (len(cards) + 1) // 2 else 1,
            )
            added.append(device)
            self.views.append(
                DeviceView(
                    device=device,
                    health=Health.HEALTHY,
                    health_reason=None,
                    # What the driver keeps for itself.
                    allocatable_bytes=device.memory_total_bytes - GIB // 2,
                    claimed_bytes=0,
                )
            )
        if link is None:
            return
        for i, a in enumerate(added):
            for j, b in enumerate(added):
                if i != j:
                    kind = link(min(i, j), max(i, j))
                    nvlinks = {"NVL": 4}.get(kind, 0)
                    one = DeviceLink(a=a.uuid, b=b.uuid, kind=kind, nvlinks=nvlinks)
                    self.links.setdefault(a.uuid, {})[b.uuid] = one

    def change(self, position: int, *, foreign: int = 0, claimed: int = 0) -> None:
        """Let other processes, or a replica that runs, hold memory of a device."""
        old = self.views[position]
        self.views[position] = DeviceView(
            device=old.device,
            health=old.health,
            health_reason=None,
            allocatable_bytes=max(0, old.allocatable_bytes - foreign),
            claimed_bytes=min(old.allocatable_bytes, old.claimed_bytes + claimed),
            claimants=(*old.claimants, f"resident-{position}") if claimed else old.claimants,
        )

    # Wishes.

    def model(self, among: tuple[Text, ...], **changes: object) -> None:
        model = self.chance.choice(among)
        context = self.chance.choice((2048, 4096, 8192, 16384, 32768))
        tokens = context * self.chance.choice((1, 1, 2, 4))
        needs = memory_needs(model, tokens, *self.shapes(model))
        wish = {
            "name": f"{len(self.deployments):02}-{model.name}",
            "source": model.name,
            "engine": "vllm",
            "platforms": ("cuda",),
            "memory": needs,
            "max_model_len": context,
            "affinity": Affinity(),
            **changes,
        }
        self.deployments.append(Deployment(**wish))  # type: ignore[arg-type]

    def shapes(self, model: Text) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tensor-parallel sizes and numbers of stages: left open, an engine without pipelines, or
        set in the config."""
        kind = self.chance.random()
        if kind < 0.3:
            return (1, 2, 4, 8), (1, 2, 3, 4)
        if kind < 0.7:
            return (1, 2, 4, 8), (1,)
        if model in SMALL:
            return (1,), (1,)
        sizes = (1, 2) if model in MIDDLE else (2, 4)
        return (self.chance.choice([n for n in sizes if model.heads % n == 0]),), (1,)

    def finish(self, kind: str, seed: int) -> Instance:
        requests = [
            PlacementRequest(replica_id=f"{one.name}/{number}", deployment=one)
            for one in self.deployments
            for number in range(one.replicas)
        ][:MAX_REQUESTS]
        assert 0 < len(self.views) <= MAX_DEVICES
        assert requests
        fleet = Fleet(tuple(self.views), ("cuda",), self.links)
        problem = PlacementProblem(
            requests=tuple(requests),
            fleet=fleet,
            admits=lambda request, view: view.health.placeable,
        )
        return Instance(kind, seed, problem)


def _islands(count: int, link: Callable[[int, int], LinkKind] | None) -> dict[int, int]:
    """Groups on NVLink, by the lowest index in each."""
    if link is None:
        return {}
    found: dict[int, int] = {}
    for index in range(count):
        near = [o for o in range(count) if o != index and link(*sorted((o, index))) == "NVL"]
        if near:
            found[index] = min(index, *(found.get(other, other) for other in near))
    return found


# What lies between the cards of a node, by their indices.


def nvlink_all(a: int, b: int) -> LinkKind:
    return "NVL"


def nvlink_pairs(a: int, b: int) -> LinkKind:
    """Bridges between neighbours, as for RTX 3090 and A6000."""
    return "NVL" if a // 2 == b // 2 else pcie_two_sockets(a, b)


def pcie_two_sockets(a: int, b: int) -> LinkKind:
    """Eight cards: two behind each switch, two switches to a socket."""
    if a // 2 == b // 2:
        return "PIX"
    return "NODE" if a // 4 == b // 4 else "SYS"


def pcie_flat(a: int, b: int) -> LinkKind:
    return "PHB"


# The kinds of instance.


def helix(draft: _Draft) -> None:
    """Mixed clusters, as Helix has them: T4, L4 and A100 in nodes of one to four."""
    chance = draft.chance
    small, large = [T4] * 6 + [L4] * 4, [A100_40] * 3 + [L4] * 5 + [T4] * 8
    shares = small if chance.random() < 0.5 else large
    for card in (A100_40, L4, T4):
        left = shares.count(card)
        while left:
            size = min(left, chance.choice((1, 2, 4)))
            draft.node([card] * size, nvlink_all if card is A100_40 else pcie_flat)
            left -= size
    for _ in range(chance.randint(6, 20)):
        draft.model(chance.choice((SMALL, MIDDLE, MIDDLE, LARGE)))


def nvlink_box(draft: _Draft) -> None:
    """One or two boxes of eight on NVLink."""
    chance = draft.chance
    card = chance.choice((A100_40, A100_80, H100))
    for _ in range(chance.choice((1, 1, 2))):
        draft.node([card] * 8, nvlink_all)
    for _ in range(chance.randint(4, 16)):
        draft.model(chance.choice((SMALL, MIDDLE, LARGE, LARGE)))


def pcie_box(draft: _Draft) -> None:
    """One or two two-socket servers with eight PCIe cards, some bridged in pairs."""
    chance = draft.chance
    for _ in range(chance.choice((1, 1, 2))):
        card = chance.choice((RTX3090, RTX4090, A6000, L40S, A10))
        bridged = card in (RTX3090, A6000) and chance.random() < 0.5
        draft.node([card] * 8, nvlink_pairs if bridged else pcie_two_sockets)
    for _ in range(chance.randint(5, 18)):
        draft.model(chance.choice((SMALL, MIDDLE, MIDDLE, LARGE)))


def mixed_cards(draft: _Draft) -> None:
    """24, 48 and 80 GB in the same nodes."""
    chance = draft.chance
    for _ in range(chance.randint(1, 3)):
        cards = [RTX4090] * chance.randint(0, 3) + [L40S] * chance.randint(0, 2)
        cards += [A100_80] * chance.randint(0, 2)
        draft.node(cards[:5] or [L40S, RTX4090], pcie_two_sockets)
    for _ in range(chance.randint(4, 16)):
        draft.model(chance.choice((SMALL, MIDDLE, MIDDLE, LARGE)))


def foreign_memory(draft: _Draft) -> None:
    """Other people's processes hold memory on most cards."""
    chance = draft.chance
    for _ in range(chance.randint(1, 2)):
        card = chance.choice((RTX4090, L40S, A100_80))
        link = nvlink_all if card is A100_80 else pcie_two_sockets
        draft.node([card] * chance.choice((4, 8)), link)
    for position, view in enumerate(draft.views):
        if chance.random() < 0.7:
            share = chance.choice((0.02, 0.1, 0.25, 0.5, 0.9))
            draft.change(position, foreign=int(share * view.device.memory_total_bytes))
    for _ in range(chance.randint(5, 18)):
        draft.model(chance.choice((SMALL, MIDDLE, MIDDLE, LARGE)))


def sharing(draft: _Draft) -> None:
    """Many small models on few cards: several on each."""
    chance = draft.chance
    draft.node([chance.choice((L4, L40S, A100_40))] * chance.randint(2, 6), pcie_two_sockets)
    for _ in range(chance.randint(14, 20)):
        draft.model(chance.choice((SMALL, SMALL, SMALL, MIDDLE)))


def fragmented(draft: _Draft) -> None:
    """Replicas that run are spread over the cards; what is left is in pieces."""
    chance = draft.chance
    for _ in range(chance.randint(1, 2)):
        card = chance.choice((L40S, A100_40, A100_80, H100))
        link = pcie_two_sockets if card is L40S else nvlink_all
        draft.node([card] * 8, link)
    for position, view in enumerate(draft.views):
        share = chance.choice((0.0, 0.0, 0.2, 0.4, 0.6, 0.8))
        draft.change(position, claimed=int(share * view.allocatable_bytes))
    for _ in range(chance.randint(4, 16)):
        draft.model(chance.choice((SMALL, MIDDLE, LARGE)))


def replicas(draft: _Draft) -> None:
    """Few models, several replicas of each, over two or three nodes."""
    chance = draft.chance
    card = chance.choice((L4, L40S, A100_80))
    for _ in range(chance.randint(2, 3)):
        link = nvlink_all if card is A100_80 else pcie_two_sockets
        draft.node([card] * chance.choice((2, 4, 5)), link)
    for _ in range(chance.randint(2, 6)):
        draft.model(chance.choice((SMALL, MIDDLE, LARGE)), replicas=chance.randint(1, 4))


def at_random(draft: _Draft) -> None:
    """Anything: cards, links, foreign memory and fixed or whole-device needs."""
    chance = draft.chance
    links = (None, nvlink_all, nvlink_pairs, pcie_two_sockets, pcie_flat)
    for _ in range(chance.randint(1, 4)):
        cards = [chance.choice((T4, L4, RTX4090, L40S, A100_40, A100_80))]
        cards = cards * chance.randint(1, 4) if chance.random() < 0.6 else cards
        cards = cards[: MAX_DEVICES - len(draft.views)]
        draft.node(cards, chance.choice(links))
    for position, view in enumerate(draft.views):
        if chance.random() < 0.2:
            draft.change(position, foreign=int(chance.random() * view.device.memory_total_bytes))
    for _ in range(chance.randint(1, 20)):
        kind = chance.random()
        if kind < 0.15:
            draft.model(SMALL, memory=None, memory_bytes_per_device=chance.randint(1, 40) * GIB)
        elif kind < 0.2:
            draft.model(SMALL, memory=None)
        else:
            draft.model(chance.choice((SMALL, MIDDLE, LARGE)))


KINDS: dict[str, Callable[[_Draft], None]] = {
    "helix": helix,
    "nvlink box": nvlink_box,
    "pcie box": pcie_box,
    "mixed 24/48/80": mixed_cards,
    "foreign memory": foreign_memory,
    "sharing": sharing,
    "fragmented": fragmented,
    "replicas": replicas,
    "random": at_random,
}


def instance(kind: str, seed: int) -> Instance:
    """Equal arguments give equal instances, on every machine."""
    draft = _Draft(seed)
    KINDS[kind](draft)
    return draft.finish(kind, seed)
