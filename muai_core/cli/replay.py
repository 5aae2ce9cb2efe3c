"""`muai replay`: what happened, told again by the same control plane."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click
from msgspec import Struct, to_builtins

from muai_core import builtin
from muai_core.config.errors import printable
from muai_core.control.invariants import violations
from muai_core.control.plane import ControlPlane
from muai_core.control.transcript import Transcript
from muai_core.plugin.loading import Plugins
from muai_core.runtime.journal import Batch, End, JournalError, JournalReader, Snapshot

EXIT_DIFFERENT = 1
EXIT_NO_JOURNAL = 2


class Replayed(Struct, kw_only=True):
    """What a replay found; the keys of `--json`."""

    journal: str
    #: The version of MuAI that wrote the journal.
    version: str
    batches: int = 0
    events: int = 0
    #: Stretches that the controller could not write, and the batches in them.
    gaps: int = 0
    lost_batches: int = 0
    #: The last line was cut off.
    torn: bool = False
    #: The controller closed the journal in good order.
    ended: bool = False
    digests_verified: int = 0
    #: Of the state at the end, or at the first difference.
    digest: str = ""
    #: The first thing that is not as recorded, or that breaks an invariant; None: there is none.
    difference: str | None = None


@click.command("replay")
@click.argument("journal", type=click.Path(path_type=Path))
@click.option("--verbose", is_flag=True, help="Print every event, action and change of a replica.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
@click.option(
    "--plugin",
    "files",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Load this local plugin file in place of those that the journal names. Repeatable.",
)
def command(journal: Path, verbose: bool, as_json: bool, files: tuple[Path, ...]) -> None:
    """Replay a JOURNAL and print the digest it leads to.

    The recorded events go through a new control plane with the same allocation strategy and
    recovery policy; local plugin files that the journal names are loaded, so their code runs. Every
    recorded digest and the invariants are verified. Exit status: 0 when all is as recorded, 1 when
    something differs, 2 when the file is no journal that can be replayed.
    """
    if verbose and as_json:
        raise click.UsageError("--verbose is for people, --json for scripts: give one of them")
    try:
        reader = JournalReader(journal)
        plugins = builtin.load(files or tuple(map(Path, reader.header.plugins)))
        found = Replay(reader, plugins, click.echo if verbose else None).run()
    except BrokenPipeError:
        raise
    except OSError as error:
        click.echo(f"Error: {journal}: {error.strerror or error}", err=True)
        sys.exit(EXIT_NO_JOURNAL)
    except JournalError as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
        sys.exit(EXIT_NO_JOURNAL)
    click.echo(json.dumps(to_builtins(found), indent=2) if as_json else summary(found))
    if found.difference is not None:
        sys.exit(EXIT_DIFFERENT)


class Replay:
    """One journal going through a new control plane."""

    def __init__(
        self,
        reader: JournalReader,
        plugins: Plugins,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """`tell` gets the story, step by step. Raises JournalError when a plugin is missing."""
        self._reader = reader
        self._plugins = plugins
        self._tell = tell
        self._plane = self._restore(reader.snapshot)
        self._equal_until = 0

    def run(self) -> Replayed:
        """To the end, or to the first difference. Raises JournalError on a damaged journal."""
        found = Replayed(journal=str(self._reader.path), version=self._reader.header.muai)
        for line in self._reader:
            match line:
                case Snapshot(lost_batches=lost):
                    found.gaps += 1
                    found.lost_batches += lost
                    self._plane = self._restore(line)
                    if self._tell is not None:
                        self._tell(f"# {lost} batches are missing here: they were never written")
                case Batch():
                    found.difference = self._compare(found, line.digest, line.seq - 1)
                    found.difference = found.difference or self._apply(found, line)
                case End():
                    found.ended = True
                    found.difference = self._compare(found, line.digest, line.seq)
            if found.difference is not None:
                break
        found.torn = self._reader.torn
        found.digest = self._plane.digest()
        return found

    def _restore(self, snapshot: Snapshot) -> ControlPlane:
        header, path = self._reader.header, self._reader.path
        for kind, name, table in (
            ("allocation strategy", header.strategy, self._plugins.allocation_strategies),
            ("recovery policy", header.policy, self._plugins.recovery_policies),
        ):
            if name not in table:
                failed = (f"; {plugin.name}: {plugin.reason}" for plugin in self._plugins.failed())
                raise JournalError(
                    f"{path}: needs the {kind} {name!r}, which no plugin registers; install the "
                    f"plugin, or name its file with --plugin{''.join(failed)}"
                )
        try:
            return ControlPlane.restore(
                bytes(snapshot.state),
                self._plugins.allocation_strategies[header.strategy],
                self._plugins.recovery_policies[header.policy],
            )
        except ValueError as error:
            raise JournalError(f"{path}: a snapshot that is none: {error}") from error

    def _compare(self, found: Replayed, recorded: str | None, seq: int) -> str | None:
        """Compare with the digest recorded after batch `seq`; the difference in words."""
        if recorded is None:
            return None
        digest = self._plane.digest()
        if digest != recorded:
            first = self._equal_until + 1
            batches = f"batch {seq}" if first >= seq else f"one of the batches {first} to {seq}"
            return f"{batches} led to digest {digest}, recorded is {recorded}"
        found.digests_verified += 1
        self._equal_until = seq
        return None

    def _apply(self, found: Replayed, batch: Batch) -> str | None:
        """One step; the invariants that it breaks, in words."""
        if self._tell is None:
            self._plane.step(batch.now_s, batch.events)
        else:
            lines = Transcript(self._plane).step(batch.now_s, batch.events)
            self._tell("\n".join([f"at {batch.now_s:.3f}", *map(printable, lines)]))
        found.batches += 1
        found.events += len(batch.events)
        broken = violations(self._plane.state)
        return f"batch {batch.seq} breaks an invariant: {'; '.join(broken)}" if broken else None


def summary(found: Replayed) -> str:
    """The outcome for people."""
    lines = [
        f"{found.journal}: {found.batches} batches with {found.events} events replayed, "
        f"{found.digests_verified} digests verified"
    ]
    if found.gaps:
        lines.append(f"{found.lost_batches} batches in {found.gaps} gaps were never written")
    if found.torn:
        lines.append("the last line is torn: the controller was killed in the middle of a write")
    elif not found.ended and found.difference is None:
        lines.append("there is no end line: the controller was killed, or it still runs")
    if found.difference is not None:
        lines.append(f"DIFFERENT: {found.difference}")
    lines.append(f"digest {found.digest}")
    return "\n".join(map(printable, lines))
