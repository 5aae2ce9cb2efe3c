"""The words of a mistake: what was expected, what was given, what was probably meant."""

import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from muai_core.config.tree import Path

SHOWN_MAX = 60
KEYS_SHOWN_MAX = 12

#: Words of other servers for what is called differently here.
SYNONYMS = {
    "model": "source",
    "model_path": "source",
    "path": "source",
    "weights": "source",
    "backend": "engine",
    "tp": "tensor_parallel_size",
    "tp_size": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "num_replicas": "replicas",
    "context_length": "max_model_len",
    "max_context": "max_model_len",
    "ctx_size": "max_model_len",
    "metrics": "sinks",
    "server": "gateway",
    "api": "gateway",
    "gpus": "devices",
    "gpu": "devices",
    "params": "engine_options",
    "args": "engine_options",
    "address": "host",
    "listen": "host",
    "api_key": "api_keys_file",
    "api_keys": "api_keys_file",
    "api_key_file": "api_keys_file",
}
_SECRET = re.compile(
    r"(?i)((api|access|private|hub)[_-]?keys?|auth|authorization|credentials?|password|passwd|"
    r"passphrase|secrets?|token|bearer)$"
)
_URL_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_YES = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word that `word` was probably meant to be, None when none comes close."""
    names = list(allowed)
    meant = SYNONYMS.get(word.lower().replace("-", "_"))
    if meant in names:
        return meant
    folded = {name.lower().replace("-", "_"): name for name in names}
    close = difflib.get_close_matches(word.lower().replace("-", "_"), folded, n=1, cutoff=0.65)
    return folded[close[0]] if close else None


def choices(names: Iterable[str]) -> str:
    """Allowed names for a message, in order, cut when there are many."""
    listed = list(names)
    more = len(listed) - KEYS_SHOWN_MAX
    shown = ", ".join(listed[:KEYS_SHOWN_MAX])
    return f"{shown} and {more} more" if more > 0 else shown or "none"


def is_secret(path: Sequence[str | int]) -> bool:
    """Whether the value at `path` must never be shown."""
    keys = [part for part in path if isinstance(part, str)]
    if len(keys) > 3 and keys[0] == "engines" and keys[2] == "env":
        return True
    # A model or a plugin may well be called auth.
    return any(_SECRET.search(key) for key in keys[2:])


def masked(value: Any, path: Sequence[str | int]) -> Any:
    """`value` as it may be shown: secrets and passwords inside URLs replaced by `***`."""
    if value is None or isinstance(value, bool):
        return value
    if is_secret(path):
        return "***"
    return _URL_USER.sub("***", value) if isinstance(value, str) else value


def given(value: Any, path: Path = ()) -> str:
    """What the user wrote, in words and cut to a readable length."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if is_secret(path):
        return "***"
    shown = masked(value, path)
    if isinstance(shown, float):
        return ".nan" if math.isnan(shown) else str(shown).replace("inf", ".inf")
    if isinstance(shown, str):
        text = shown
        text = text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "..."
        return f"the text '{text}'"
    return str(shown)


def mismatch(error: Mapping[str, Any], annotation: Any, metadata: Sequence[Any], path: Path) -> str:
    """The message for one pydantic error on a value whose type is `annotation`."""
    kind, value = error["type"], error["input"]
    if kind in ("value_error", "assertion_error"):
        return str(error["msg"]).split(", ", 1)[-1]
    wanted = expected(annotation, metadata)
    if unwrap(annotation)[0] in (SecretStr, SecretBytes):
        return "expected text, got ***"
    if wanted is None:
        text = str(error["msg"])
        return f"{text[:1].lower()}{text[1:]}, got {given(value, path)}"
    if path[-1:] == ("api_keys_env",):
        # Somebody who misreads this option writes the key itself here.
        return f"expected {wanted}, got something else"
    message = f"expected {wanted}, got {given(value, path)}"
    if kind == "bool_type" and isinstance(value, str) and value.lower() in _YES:
        return f"{message}; write {_YES[value.lower()]}"
    if kind in ("int_type", "float_type") and isinstance(value, str) and _is_number(value):
        return f"{message}; write it without quotes"
    if kind == "string_type" and wanted.startswith("text") and _is_scalar(value):
        return f"{message}; write it in quotes"
    return message


def expected(annotation: Any, metadata: Sequence[Any]) -> str | None:
    """What a value of this type looks like, None for types that have no words here."""
    annotation, inner = unwrap(annotation)
    constraints = [*metadata, *inner]
    words: str | None = _constraint(constraints, "words")
    if words is not None:
        return words
    if get_origin(annotation) in (Union, types.UnionType):
        members = [expected(member, ()) for member in get_args(annotation)]
        known = [member for member in members if member is not None]
        return " or ".join(known) if len(known) == len(members) else None
    if annotation is bool:
        return "true or false"
    if annotation is int:
        return "a whole number" + _bounds(constraints)
    if annotation is float:
        return "a number" + _bounds(constraints)
    if annotation is str:
        return _text_words(constraints)
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    if get_origin(annotation) in (list, tuple):
        return "a list"
    if get_origin(annotation) is dict or annotation is dict or _is_model(annotation):
        return "a mapping (key: value)"
    return None


def _text_words(constraints: Sequence[Any]) -> str:
    pattern = _constraint(constraints, "pattern")
    if pattern is not None:
        return f"text of the form {pattern}"
    if _constraint(constraints, "min_length"):
        return "text that is not empty"
    return "text"


def _bounds(constraints: Sequence[Any]) -> str:
    low, high = _constraint(constraints, "ge"), _constraint(constraints, "le")
    above, below = _constraint(constraints, "gt"), _constraint(constraints, "lt")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if above is not None and high is not None:
        return f" above {above}, at most {high}"
    limits = [("of at least", low), ("of at most", high), ("above", above), ("below", below)]
    return "".join(f" {word} {limit}" for word, limit in limits if limit is not None)


def _constraint(constraints: Sequence[Any], name: str) -> Any:
    for constraint in constraints:
        if isinstance(constraint, FieldInfo):
            found = _constraint(constraint.metadata, name)
        else:
            found = getattr(constraint, name, None)
        if found is not None:
            return found
    return None


def unwrap(annotation: Any) -> tuple[Any, list[Any]]:
    """`annotation` without Annotated and Optional, and the metadata found on the way."""
    metadata: list[Any] = []
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *extra = get_args(annotation)
            metadata += extra
        elif get_origin(annotation) in (Union, types.UnionType):
            members = [arg for arg in get_args(annotation) if arg is not type(None)]
            if len(members) != 1:
                return annotation, metadata
            annotation = members[0]
        else:
            return annotation, metadata


def type_at(model: type[BaseModel], path: Path) -> tuple[Any, Sequence[Any]]:
    """Annotation and metadata of the value at `path` below `model`; (Any, ()) off the schema."""
    annotation: Any = model
    metadata: Sequence[Any] = ()
    for part in path:
        annotation, _ = unwrap(annotation)
        metadata = ()
        arguments = get_args(annotation)
        if _is_model(annotation):
            field = field_named(annotation, str(part))
            if field is None:
                return Any, ()
            annotation, metadata = field.annotation, field.metadata
        elif get_origin(annotation) is dict:
            annotation = arguments[1]
        elif get_origin(annotation) in (list, tuple):
            annotation = arguments[0]
        else:
            return Any, ()
    return annotation, metadata


def field_named(model: type[BaseModel], key: str) -> FieldInfo | None:
    """The field that users write as `key`: its alias where it has one."""
    for name, field in model.model_fields.items():
        if key == (field.alias or name):
            return field
    return None


def keys_of(annotation: Any) -> list[str]:
    """The keys a mapping of this type may have, empty when they are free."""
    annotation, _ = unwrap(annotation)
    if not _is_model(annotation):
        return []
    return [field.alias or name for name, field in annotation.model_fields.items()]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
