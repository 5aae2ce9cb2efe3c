"""JSON from files that others wrote: objects only, and no way to crash or to eat memory."""

import json
from typing import Any

from muai_core.model.architecture import ModelError
from muai_core.planning.wording import one_line

CONFIG_MAX_BYTES = 4 * 2**20


def json_object(text: bytes) -> dict[str, Any]:
    """Raises ModelError when it is not one JSON object, or says a key twice in different ways."""
    try:
        found = json.loads(text, object_pairs_hook=_without_conflict)
    except RecursionError:
        raise ModelError("its JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise ModelError("it is not UTF-8 text: needed is a JSON object") from None
    except ModelError:
        raise
    except ValueError as error:
        raise ModelError(f"it is not JSON ({one_line(str(error), 120)})") from None
    if not isinstance(found, dict):
        raise ModelError(f"its JSON is {_kind(found)}: needed is an object")
    return found


def _without_conflict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        for key, value in pairs:
            # NaN is not equal to itself, which counts as a conflict, too.
            if found[key] != value:
                raise ModelError(f"'{one_line(key, 60)}' is there twice, with different values")
    return found


def _kind(found: object) -> str:
    if isinstance(found, list):
        return "a list"
    if isinstance(found, str):
        return "a text"
    return "null" if found is None else "a single value"
