"""A tree against pydantic models: every mistake at once, each on the line it was made."""

from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from muai_core.config.errors import Problem
from muai_core.config.tree import Node, Path, dotted
from muai_core.config.wording import (
    choices,
    field_named,
    keys_of,
    mismatch,
    nearest,
    type_at,
    unwrap,
)

ModelT = TypeVar("ModelT", bound=BaseModel)
_ROUNDS_MAX = 20
#: Of the limits of a number, in pydantic's words and in ours.
_BOUNDS = {"le": "at most", "ge": "at least"}


def validate(
    model: type[ModelT], tree: Node, base: Path = (), also: tuple[str, ...] = ()
) -> tuple[ModelT | None, list[Problem], set[Path]]:
    """`tree` as a `model`, the mistakes, and the paths that were left out because of them.

    `tree` is the whole config; `base` is the place in it that `model` describes, except for the
    keys `also`, which somebody else looks at. Mistakes are reported, then cut out, and the rest is
    validated again, so that later checks still see everything that is sound. The model is None
    when nothing sound is left. `tree` is not changed.
    """
    problems: list[Problem] = []
    broken: set[Path] = set()
    subject = tree.find(base)
    rest = subject.copy() if subject is not None else Node({}, tree.origin)
    for key in also:
        rest.remove((key,))
    fill_empty(rest, model)
    for _ in range(_ROUNDS_MAX):
        try:
            return model.model_validate(rest.plain()), problems, broken
        except ValidationError as error:
            details = error.errors(include_url=False)
        cuts: set[Path] = set()
        for detail in details:
            reached = _reached(rest, detail)
            problems.append(_problem(model, tree, base, reached, detail, also))
            cuts.add(_cut(reached))
        broken |= {base + cut for cut in cuts}
        if () in cuts:
            break
        for cut in cuts:
            rest.remove(cut)
    return None, problems, broken


def fill_empty(node: Node, annotation: Any) -> None:
    """A key with nothing behind it (`gateway:`) is an empty mapping or list where one belongs."""
    annotation, _ = unwrap(annotation)
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    if node.value is None and (is_model or get_origin(annotation) is dict):
        node.value = {}
    if node.value is None and get_origin(annotation) is list:
        node.value = []
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            if is_model:
                field = field_named(annotation, key)
                if field is not None:
                    nullable = type(None) in get_args(field.annotation)
                    if child.value is not None or not nullable:
                        fill_empty(child, field.annotation)
            elif get_origin(annotation) is dict:
                fill_empty(child, get_args(annotation)[1])


def _reached(node: Node, detail: ErrorDetails) -> Path:
    """The part of pydantic's location that exists in the tree; tags of unions do not."""
    path: Path = ()
    for part in detail["loc"]:
        if node.find((*path, part)) is None:
            break
        path = (*path, part)
    return path


def _cut(path: Path) -> Path:
    """What to leave out: a whole list rather than an item, so that indices stay true."""
    for length, part in enumerate(path):
        if isinstance(part, int):
            return path[:length]
    return path


def _problem(
    model: type[BaseModel],
    tree: Node,
    base: Path,
    path: Path,
    detail: ErrorDetails,
    also: tuple[str, ...],
) -> Problem:
    origin = tree.nearest(base + path).origin
    if detail["type"] == "missing":
        return _missing(tree, base + path, str(detail["loc"][-1]))
    shown = dotted(base + path)
    if detail["type"] == "extra_forbidden":
        parent, _ = type_at(model, path[:-1])
        allowed = [*keys_of(parent), *(also if len(path) == 1 else ())]
        meant = nearest(str(path[-1]), allowed)
        if meant is not None:
            return Problem(origin, shown, "unknown option", meant)
        return Problem(origin, shown, f"unknown option; allowed: {choices(allowed)}")
    if detail["loc"] and detail["loc"][-1] == "[key]":
        return Problem(origin, shown, _name_message(detail))
    annotation, metadata = type_at(model, path)
    return Problem(origin, shown, mismatch(detail, annotation, metadata, base + path))


def _missing(tree: Node, parent: Path, key: str) -> Problem:
    origin = tree.nearest(parent).origin
    shown = dotted((*parent, key))
    if origin.kind in ("env", "set") and parent:
        siblings = tree.nearest(parent[:-1]).value
        known = siblings if isinstance(siblings, dict) else {}
        others = [name for name in known if name != parent[-1]]
        meant = nearest(str(parent[-1]), others)
        if meant is not None:
            message = f"is required, for {dotted(parent)} is new"
            return Problem(origin, shown, message, dotted((*parent[:-1], meant)))
    return Problem(origin, shown, "is required")


def _name_message(detail: ErrorDetails) -> str:
    if detail["type"] == "string_pattern_mismatch":
        rule = "a name has letters, digits and . _ : / @ + -, begins with a letter or digit"
        return f"{rule}, and has at most 128 characters"
    if detail["type"] in ("less_than_equal", "greater_than_equal"):
        ((bound, number),) = detail["ctx"].items()
        return f"the key is a whole number, {_BOUNDS[bound]} {number}"
    if detail["type"].startswith("int_"):
        return "the key is a whole number"
    return "a name has from 1 to 200 characters"
