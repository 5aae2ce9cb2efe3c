"""The memory estimate of one model, for people."""

from collections.abc import Iterator
from typing import Any

from muai_core.cli.output import paragraph, print_table
from muai_core.cli.wording import memory, shape, text

View = dict[str, Any]

_PARTS = ("weights", "kv_cache", "activation", "overhead")
#: More is told in MiB or GiB.
_KIB_MAX = 10_000
_PART_HEADINGS = ["weights", "kv cache", "activation", "overhead"]


def print_memory(view: View) -> None:
    """What the model is, its bytes per rank, what is impossible, and where the figures are from."""
    for line in _model_lines(view):
        paragraph(line)
    paragraph()
    possible = [one for one in view["shapes"] if one["possible"]]
    if "ranks" in view:
        _print_stages(view["ranks"])
        paragraph()
    _print_shapes(view, possible)
    impossible = list(_impossible(view["shapes"]))
    if impossible:
        paragraph()
        for line in impossible:
            paragraph(line)
    paragraph()
    for line in _origins(view):
        paragraph(line)


def _model_lines(view: View) -> Iterator[str]:
    model = view["model"]
    name = ", ".join(model["class_names"]) or model["model_type"]
    family = f"{name} ({model['model_type']})" if model["class_names"] else name
    yield f"{family}, {_parameters(model['parameters'])} in {model['tensors']} tensors"
    stored = ", ".join(
        f"{dtype} {memory(size)}" for dtype, size in list(model["stored_dtypes"].items())[:4]
    )
    quantization = _quantization(model["quantization"])
    yield f"stored as {stored}; {quantization}, computed in {view['dtype']}"
    yield _layers(model)
    context = text(model["context_tokens"])
    per_token = _kib(model["kv_bytes_per_token"])
    yield f"context {context} tokens; keys and values of one token take {per_token} in all layers"
    yield (
        f"engine {view['engine']} on {view['platform']}; room for {view['concurrency']} x "
        "the context"
    )


def _parameters(count: int) -> str:
    for unit, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if count >= unit:
            return f"{count / unit:.2f} {word} parameters"
    return f"{count} parameters"


def _quantization(found: View | None) -> str:
    if found is None:
        return "not quantised"
    bits = f", {found['bits']} bits" if found["bits"] else ""
    group = f", groups of {found['group_size']}" if found["group_size"] else ""
    return f"quantised ({found['method']}{bits}{group})"


def _layers(model: View) -> str:
    parts = [f"{model['layers']} layers"]
    kinds = model["layer_kinds"]
    if len(kinds) > 1:
        parts[0] += " (" + ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + ")"
    if model["attention"] is not None:
        parts.append(
            f"{model['attention']} with {model['attention_heads']} heads"
            + ("" if model["attention"] == "MLA" else f" and {model['kv_heads']} KV heads")
        )
    if "sliding" in kinds:
        parts.append(f"window {model['sliding_window']}")
    if model["experts"]:
        parts.append(f"{model['experts']} experts, {model['experts_per_token']} per token")
    if model["tied_embeddings"]:
        parts.append("embeddings are the output head, too")
    if model["multimodal"]:
        parts.append("takes more than text")
    return "; ".join(parts)


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.4g} KiB" if size_bytes < _KIB_MAX * 1024 else memory(size_bytes)


def _print_shapes(view: View, shapes: list[View]) -> None:
    """The largest rank of each shape at each context."""
    rows = [
        [
            shape(one["tensor_parallel_size"], one["pipeline_parallel_size"]),
            str(context["max_model_len"]),
            *(memory(context["largest_rank"][f"{part}_bytes"]) for part in _PARTS),
            memory(context["largest_rank"]["total_bytes"]),
            memory(context["all_ranks_bytes"]),
            *([] if view["card"] is None else [_fits(context, view["card"])]),
        ]
        for one in shapes
        for context in one["contexts"]
    ]
    headings = ["shape", "context", *_PART_HEADINGS, "largest rank", "all ranks"]
    right = ", ".join(headings[1:])
    if view["card"] is not None:
        headings.append(f"on {view['card']['name']}")
    print_table(headings, rows, right)


def _fits(context: View, card: View) -> str:
    left = card["usable_bytes"] - context["largest_rank"]["total_bytes"]
    return f"fits, {memory(left)} left" if context["fits"] else f"{memory(-left)} too much"


def _print_stages(ranks: list[View]) -> None:
    """The stages of the one shape that was asked for."""
    stages: dict[int, list[View]] = {}
    for rank in ranks:
        stages.setdefault(rank["stage"], []).append(rank)
    rows = [
        [
            str(stage),
            _span(of[0]["rank"], of[-1]["rank"]),
            _span(of[0]["layers"][0], of[0]["layers"][1] - 1),
            *(memory(of[0][f"{part}_bytes"]) for part in _PARTS),
            memory(of[0]["total_bytes"]),
            _kib(of[0]["kv_bytes_per_token"]),
        ]
        for stage, of in stages.items()
    ]
    headings = ["stage", "ranks", "layers", *_PART_HEADINGS, "each rank", "kv per token"]
    print_table(headings, rows, ", ".join(headings))


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _impossible(shapes: list[View]) -> Iterator[str]:
    """One line for each reason."""
    reasons: dict[str, list[str]] = {}
    for one in shapes:
        if not one["possible"]:
            name = shape(one["tensor_parallel_size"], one["pipeline_parallel_size"])
            reasons.setdefault(one["reason"], []).append(name)
    for reason, names in reasons.items():
        yield f"impossible: {', '.join(names)}: {reason}"


def _origins(view: View) -> Iterator[str]:
    terms = view["terms"]
    yield f"weights     {terms['weights']}"
    yield f"kv cache    {terms['kv_cache']}"
    yield f"activation  {terms['activation']}"
    yield f"overhead    {terms['overhead']}"
