"""What `muai plugin check` prints: a line for each clause, counts in the end."""

import shutil
from collections.abc import Sequence
from typing import Any

import click

from muai_core.cli.output import STYLES, on_terminal
from muai_core.cli.plugin_parts import Part
from muai_core.config.errors import printable
from muai_core.testing.clauses import Clause, ClauseResult, Outcome

_WORDS: dict[Outcome, str] = {
    "passed": "passed",
    "failed": "failed",
    "not_applicable": "not applicable",
}
_OUTCOME_WIDTH = max(map(len, _WORDS.values()))
_TIME_WIDTH = 8


#: Back to the beginning of a terminal's line, which is emptied.
_AGAIN = "\r\x1b[2K"


class Lines:
    """The table of one part: a line when a clause ends, on a terminal its title meanwhile."""

    def __init__(self, part: Part, clauses: Sequence[Clause]) -> None:
        self._number_width = max(len(clause.number) for clause in clauses)
        self._title_width = max(len(clause.title) for clause in clauses)
        self._coloured = on_terminal()
        self._begun: Clause | None = None
        version = f" {part.plugin.version}" if part.plugin.version else ""
        click.echo(printable(f"{part} ({part.plugin.name}{version}, {part.plugin.origin})"))
        click.echo(
            f"{'NO':<{self._number_width}}  {'CLAUSE':<{self._title_width}}  "
            f"{'OUTCOME':<{_OUTCOME_WIDTH}}  {'TIME':>{_TIME_WIDTH}}  REASON"
        )

    def begin(self, clause: Clause) -> None:
        self._begun = clause
        if self._coloured:
            # One row, or the next line would not replace all of it.
            columns = shutil.get_terminal_size().columns
            click.echo(self._start(clause.number, clause.title)[: columns - 1], nl=False)

    def end(self, result: ClauseResult) -> None:
        word = f"{_WORDS[result.outcome]:<{_OUTCOME_WIDTH}}"
        if self._coloured:
            word = click.style(word, fg=_colour(result.outcome))
        start = (_AGAIN if self._coloured else "") + self._start(result.number, result.title)
        line = (
            f"{start}{word}  {f'{result.took_s:.1f} s':>{_TIME_WIDTH}}  {printable(result.reason)}"
        )
        click.echo(line.rstrip())

    def cut_off(self) -> None:
        """The clause that has begun does not end."""
        if self._begun is not None:
            again = _AGAIN if self._coloured else ""
            click.echo(f"{again}{self._start(self._begun.number, self._begun.title)}interrupted")

    def _start(self, number: str, title: str) -> str:
        return f"{number:<{self._number_width}}  {title:<{self._title_width}}  "


def _colour(outcome: Outcome) -> str | None:
    return {"passed": STYLES["ok"], "failed": STYLES["failed"], "not_applicable": None}[outcome]


def counts(results: Sequence[ClauseResult]) -> str:
    """As in "38 passed, 0 failed, 3 not applicable"."""
    return ", ".join(
        f"{sum(result.outcome == outcome for result in results)} {word}"
        for outcome, word in _WORDS.items()
    )


def as_json(plugin: str, outcomes: Sequence[tuple[Part, Sequence[ClauseResult]]]) -> dict[str, Any]:
    """What `--json` prints."""
    every = [result for _, results in outcomes for result in results]
    return {
        "plugin": plugin,
        "ok": all(result.outcome != "failed" for result in every),
        "parts": [
            {
                "kind": part.kind,
                "name": part.name,
                "plugin": part.plugin.name,
                "version": part.plugin.version,
                "clauses": [
                    {
                        "number": result.number,
                        "title": result.title,
                        "outcome": result.outcome,
                        "reason": result.reason or None,
                        "took_s": round(result.took_s, 3),
                    }
                    for result in results
                ],
            }
            for part, results in outcomes
        ],
        **{outcome: sum(result.outcome == outcome for result in every) for outcome in _WORDS},
    }
