"""What a configuration mistake looks like: where it is, what is wrong, what is allowed."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

LINE_WIDTH = 100

Severity = Literal["error", "warning"]


class Origin(msgspec.Struct, frozen=True):
    """Where a value was given, strongest kind last: default, optimization, file, env, set.

    `name` is the file as the user wrote it, the environment variable, the `--set` key, or for a
    default the short reason. `line` counts from 1 and is 0 where there is no line.
    """

    kind: Literal["default", "optimization", "file", "env", "set"]
    name: str
    line: int = 0

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.name}:{self.line}" if self.line else self.name
        if self.kind == "set":
            return f"--set {self.name}"
        return self.name


class Problem(msgspec.Struct, frozen=True):
    """One mistake (or one warning), ready to print and stable as JSON."""

    origin: Origin
    path: str
    message: str
    suggestion: str | None = None
    severity: Severity = "error"

    @property
    def file(self) -> str | None:
        """The file the value came from, None when an override gave it."""
        return self.origin.name if self.origin.kind == "file" else None

    @property
    def line(self) -> int | None:
        """The line in `file`, counted from 1, None when the mistake has no line."""
        return self.origin.line or None

    def text(self) -> str:
        """The mistake as one line, or as two when one would be longer than 100 characters."""
        place = printable(str(self.origin))
        if self.path and (self.origin.kind, self.origin.name) != ("set", self.path):
            place = f"{place}  {printable(self.path)}"
        message = printable(self.message)
        if self.suggestion is not None:
            message = f"{message}; did you mean {printable(self.suggestion)}?"
        if self.severity == "warning":
            message = f"warning: {message}"
        one_line = f"{place}   {message}"
        return one_line if len(one_line) <= LINE_WIDTH else f"{place}\n  {message}"

    def to_json(self) -> dict[str, Any]:
        """Keys: severity, file, line, override, path, message, suggestion (stable)."""
        overridden = self.origin.kind in ("env", "set")
        return {
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "override": str(self.origin) if overridden else None,
            "path": self.path,
            "message": self.message,
            "suggestion": self.suggestion,
        }


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds every mistake found, never none."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(in_reading_order(problems))
        super().__init__(report(self.problems))

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.severity == "error")


def in_reading_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sorted as a reader meets them: the file from top to bottom, then variables, then `--set`."""
    ranks = {"file": 0, "optimization": 1, "default": 1, "env": 2, "set": 3}
    unique = dict.fromkeys(problems)
    return sorted(
        unique, key=lambda p: (ranks[p.origin.kind], p.origin.line, p.origin.name, p.path)
    )


def report(problems: Sequence[Problem]) -> str:
    """All problems as text, with the closing count."""
    lines = [problem.text() for problem in problems]
    count = sum(problem.severity == "error" for problem in problems)
    if count:
        lines.append(f"{count} error{'s' if count != 1 else ''}, nothing was started.")
    return "\n".join(lines)


def printable(text: str) -> str:
    """`text` with control characters, line breaks and lone surrogates written as escapes."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
