"""`muai plugin check`: a plugin against the numbered clauses of what it registers."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muai_core.cli.output import json_option, note, print_json
from muai_core.cli.plugin_kinds import KIND_WORDS, KindWord

if TYPE_CHECKING:
    from muai_core.cli.plugin_parts import Part
    from muai_core.cli.plugin_subjects import Given
    from muai_core.plugin.loading import Plugins
    from muai_core.testing.clauses import Clause, ClauseResult

EXIT_FAILURE = 1
#: What a replica gets to end by itself when the check itself is broken off.
_HURRIED_GRACE_S = 2.0


@click.command("check")
@click.argument("name")
@click.option("--only", metavar="NUMBERS", help="Try these clauses only, as in E01,E02.")
@click.option(
    "--kind",
    type=click.Choice(KIND_WORDS),
    metavar="KIND",
    help=f"Try parts of this kind only: {', '.join(KIND_WORDS)}.",
)
@click.option("--name", "part_name", metavar="PART", help="Try the part of this name only.")
@click.option("--options", "texts", multiple=True, metavar="KEY=VALUE", help="Options of the part.")
@click.option("--model", metavar="SOURCE", help="What an engine is to serve: a small model.")
@click.option("--python", metavar="PATH", help="The interpreter of an engine's processes.")
@click.option(
    "--logs",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Keep what an engine's processes wrote there.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    name: str,
    only: str | None,
    kind: KindWord | None,
    part_name: str | None,
    texts: tuple[str, ...],
    model: str | None,
    python: str | None,
    logs: Path | None,
    as_json: bool,
) -> None:
    """Try the conformance kit's clauses on a plugin.

    NAME is that of an installed plugin or of its package, or the path of a plugin's Python file;
    its code runs. Engines start processes here: give them a small --model. Exits with status 1 when
    a clause fails.
    """
    from muai_core.cli import plugin_parts
    from muai_core.cli.plugin_subjects import Given

    plugins = plugin_parts.load_all(name)
    parts = plugin_parts.selected(plugin_parts.parts_of(name, plugins), kind, part_name)
    given = Given(model=model, python=python, logs=logs)
    _refuse_options_for_nothing(parts, texts, given)
    tree = plugin_parts.parse_options(texts)
    options = [plugin_parts.options_for(part, tree) for part in parts]
    clauses = _clauses(parts, only)
    outcomes = []
    for part, values, wanted in zip(parts, options, clauses, strict=True):
        if wanted:
            results = _check(part, values, wanted, given, plugins, quiet=as_json)
            outcomes.append((part, results))
    _conclude(context, name, outcomes, given, as_json)


def _refuse_options_for_nothing(
    parts: "Sequence[Part]", texts: tuple[str, ...], given: "Given"
) -> None:
    there = ", ".join(str(part) for part in parts)
    if texts and len(parts) > 1:
        raise click.UsageError(
            f"--options are of one part; choose it with --kind and --name: {there}"
        )
    for option in ("model", "python", "logs"):
        value = getattr(given, option)
        if value is not None and not any(part.kind == "engine" for part in parts):
            raise click.UsageError(f"--{option} is for engines, and there is none in: {there}")


def _clauses(parts: "Sequence[Part]", only: str | None) -> "list[list[Clause]]":
    """Those to try, by part. Raises click.UsageError when a number is none of theirs."""
    from muai_core.testing.clauses import clauses_of

    every = [list(clauses_of(part.kind)) for part in parts]
    if only is None:
        return every
    wanted = [number.strip().upper() for number in only.split(",")]
    numbers = list(dict.fromkeys(clause.number for clauses in every for clause in clauses))
    for number in wanted:
        if number not in numbers:
            raise click.UsageError(
                f"--only {number or repr('')}: no clause of that number; there are: "
                f"{', '.join(numbers)}"
            )
    return [[clause for clause in clauses if clause.number in wanted] for clauses in every]


def _check(
    part: "Part",
    options: dict[str, Any],
    clauses: "Sequence[Clause]",
    given: "Given",
    plugins: "Plugins",
    *,
    quiet: bool,
) -> "list[ClauseResult]":
    """Tries them all on one subject, of which nothing is left."""
    from tempfile import TemporaryDirectory

    from muai_core.cli.plugin_report import Lines
    from muai_core.cli.plugin_subjects import make_subject

    results: list[ClauseResult] = []
    with TemporaryDirectory(prefix="muai-check-") as folder, _ended_in_order():
        subject = make_subject(part, options, given, plugins, Path(folder))
        lines = None if quiet else Lines(part, clauses)
        try:
            _try_all(clauses, subject, lines, results)
        except KeyboardInterrupt:
            _hurry(subject, lines)
            raise
        finally:
            with _undisturbed(), redirect_stdout(sys.stderr):
                subject.close()
                if given.logs is not None:
                    _keep_logs(Path(folder), given.logs)
    return results


def _try_all(
    clauses: "Sequence[Clause]", subject: Any, lines: Any, results: "list[ClauseResult]"
) -> None:
    from muai_core.testing.clauses import run_clause

    for clause in clauses:
        if lines is not None:
            lines.begin(clause)
        # What a plugin prints must not get into output that scripts read.
        with redirect_stdout(sys.stderr):
            result = run_clause(clause, subject)
        if lines is not None:
            lines.end(result)
        results.append(result)


def _keep_logs(folder: Path, target: Path) -> None:
    """Copies all logs. A copy that fails is told; the outcome of the clauses stays what it is."""
    from shutil import copyfile

    try:
        for log in sorted(folder.glob("bench-*/logs/*.log")):
            place = target / log.relative_to(folder).parts[0]
            place.mkdir(parents=True, exist_ok=True)
            copyfile(log, place / log.name)
    except OSError as error:
        note(f"--logs {target}: {error}")


def _hurry(subject: Any, lines: Any) -> None:
    from msgspec import structs

    if lines is not None:
        lines.cut_off()
    note("ending what was started ...")
    if hasattr(subject, "limits"):
        subject.limits = structs.replace(subject.limits, stop_grace_s=_HURRIED_GRACE_S)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the check as Ctrl-C does: in order, and nothing is left."""

    # While an event loop runs, SIGINT ends what it waits for, and nothing else.
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals to end wait until it is over, which is soon."""
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _conclude(
    context: click.Context,
    name: str,
    outcomes: "Sequence[tuple[Part, list[ClauseResult]]]",
    given: "Given",
    as_json: bool,
) -> None:
    from muai_core.cli import plugin_report

    every = [result for _, results in outcomes for result in results]
    if as_json:
        print_json(plugin_report.as_json(name, outcomes))
    else:
        took_s = sum(result.took_s for result in every)
        click.echo(f"{plugin_report.counts(every)} in {took_s:.1f} s")
    if any(result.outcome == "failed" for result in every):
        if given.model is not None and given.logs is None:
            note("--logs DIRECTORY keeps what the engine's processes wrote")
        context.exit(EXIT_FAILURE)
