"""Write the life of a replica, as the table in muai_core.control.lifecycle has it, into
ARCHITECTURE.md. Run it after a change of the table: `python tools/lifecycle_diagram.py`."""

import sys
from pathlib import Path

from muai_core.control.lifecycle import diagram

BEGIN, END = "<!-- lifecycle:begin -->", "<!-- lifecycle:end -->"


def with_diagram(text: str) -> str:
    """`text` with the present diagram between its two markers. Raises ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n```mermaid\n{diagram()}\n```\n{END}{after}"


if __name__ == "__main__":
    document = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "ARCHITECTURE.md"
    document.write_text(with_diagram(document.read_text("utf-8")), "utf-8")
