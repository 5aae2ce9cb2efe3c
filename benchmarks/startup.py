"""How long `muai --help` and `import muai_core` take, and what they import.

Run it with the interpreter that MuAI is installed for:

    python benchmarks/startup.py [--runs 21]

Prints the section "Start-up" of docs/benchmarks.md. Exits with status 1 when a budget is broken
or a heavy library is imported. Times are whole processes, warm, so the interpreter's own start is
in them; it is the first row, for comparison.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

#: What no command needs before it has something to do.
HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "pydantic",
    "aiohttp",
    "rich",
    "yaml",
    "msgspec",
    "asyncio",
)

#: What is measured → the interpreter's arguments, the budget in milliseconds.
CASES: dict[str, tuple[list[str], float | None]] = {
    "`python -c pass`": (["-c", "pass"], None),
    "`import muai_core`": (["-c", "import muai_core"], 100.0),
    "`muai --help`": (["-m", "muai_core.cli.main", "--help"], 150.0),
    "`muai version`": (["-m", "muai_core.cli.main", "version"], None),
    "`muai check examples/quickstart.yaml`": (
        ["-m", "muai_core.cli.main", "check", "examples/quickstart.yaml"],
        None,
    ),
}


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


def times_ms(runs: int) -> dict[str, list[float]]:
    """Wall-clock milliseconds of `runs` processes per case, in rounds, so that noise hits all."""
    measured: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(runs + 2):
        for name, (arguments, _) in CASES.items():
            began_s = time.perf_counter()
            run(arguments)
            # The first two only warm the caches.
            if number >= 2:
                measured[name].append((time.perf_counter() - began_s) * 1000)
    return measured


def imported(arguments: list[str]) -> list[str]:
    """All modules that `-X importtime` reports."""
    report = run(["-X", "importtime", *arguments]).stderr
    rows = [line for line in report.splitlines() if line.startswith("import time:")]
    return [row.rpartition("|")[2].strip() for row in rows[1:]]


def heavy_among(modules: list[str]) -> list[str]:
    return [name for name in HEAVY if any(m == name or m.startswith(f"{name}.") for m in modules)]


def measure(runs: int) -> tuple[list[str], list[str]]:
    """The table's rows, and what broke a promise."""
    rows, broken = [], []
    times = times_ms(runs)
    for name, (arguments, budget_ms) in CASES.items():
        measured = sorted(times[name])
        median_ms = statistics.median(measured)
        modules = imported(arguments)
        heavy = heavy_among(modules)
        budget = "" if budget_ms is None else f"{budget_ms:.0f} ms"
        spread = f"{measured[0]:.0f} to {measured[-1]:.0f} ms"
        found = ", ".join(heavy) or "none"
        row = [name, f"{median_ms:.0f} ms", spread, budget, str(len(modules)), found]
        rows.append(f"| {' | '.join(row)} |")
        if budget_ms is not None and median_ms > budget_ms:
            broken.append(f"{name} takes {median_ms:.0f} ms, allowed are {budget_ms:.0f}")
        if budget_ms is not None and heavy:
            broken.append(f"{name} imports {', '.join(heavy)}")
    return rows, broken


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=21, help="processes per row (default 21)")
    runs = parser.parse_args().runs
    rows, broken = measure(runs)
    print("## Start-up\n")
    print(
        f"Median of {runs} processes each, in rounds, warm, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}. `python benchmarks/startup.py`\n"
    )
    print("| command | median | range | allowed | modules | heavy libraries |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))
    for complaint in broken:
        print(complaint, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
