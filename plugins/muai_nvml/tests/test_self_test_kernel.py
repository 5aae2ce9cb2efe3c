"""The self-test's kernel: its PTX, read and executed here, computes what Python expects.

No GPU is needed: the interpreter below knows just the instructions that the kernel uses, by the
PTX ISA manual, and nothing else, so that anything unexpected in the text is an error.
"""

import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from muai_nvml.self_test_kernel import NAME, PTX, expected

WORD = 2**32
RESULTS = 0x7F0000000000


def float_of(bits: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return value


def rounded(exact: Fraction) -> int:
    """The bits of the nearest float, ties to even; for normal numbers only."""
    exponent = 0
    while exact >= 2 ** (exponent + 1):
        exponent += 1
    while exact < Fraction(2) ** exponent:
        exponent -= 1
    # Fraction rounds half to even, as IEEE 754 does.
    mantissa = round(exact / Fraction(2) ** (exponent - 23))
    return struct.unpack("<I", struct.pack("<f", mantissa * 2.0 ** (exponent - 23)))[0]


def fused(x: int, y: int, z: int) -> int:
    return rounded(Fraction(float_of(x)) * Fraction(float_of(y)) + Fraction(float_of(z)))


#: Registers hold bits. The type of an instruction is the type of its registers.
OPERATIONS: dict[str, Callable[..., int]] = {
    "mov.u32": lambda a: a,
    "mov.b32": lambda a: a,
    "mov.f32": lambda a: a,
    "mad.lo.u32": lambda a, b, c: (a * b + c) % WORD,
    "sub.u32": lambda a, b: (a - b) % WORD,
    "shr.u32": lambda a, b: a >> b,
    "and.b32": lambda a, b: a & b,
    "or.b32": lambda a, b: a | b,
    "xor.b32": lambda a, b: a ^ b,
    "setp.ge.u32": lambda a, b: int(a >= b),
    "setp.ne.u32": lambda a, b: int(a != b),
    "fma.rn.f32": fused,
    "cvta.to.global.u64": lambda a: a,
    "mul.wide.u32": lambda a, b: a * b,
    "add.u64": lambda a, b: (a + b) % 2**64,
}


class Program:
    """The kernel's text, taken apart."""

    def __init__(self, text: str) -> None:
        match = re.search(r"\.visible \.entry (\w+)\(([^)]*)\)\s*\{(.*)\}", text, re.DOTALL)
        assert match is not None
        self.name, parameters, body = match.groups()
        self.parameters = re.findall(r"\.param \.(u\d+) (\w+)", parameters)
        #: Register → its type.
        self.registers: dict[str, str] = {}
        self.labels: dict[str, int] = {}
        self.instructions: list[tuple[str | None, str, list[str]]] = []
        for raw in body.splitlines():
            line = raw.strip()
            if line.startswith(".reg"):
                kind, names = re.fullmatch(r"\.reg \.(\w+)\s+(.*);", line).groups()  # type: ignore[union-attr]
                self.registers |= dict.fromkeys(names.split(", "), kind)
            elif line.endswith(":"):
                self.labels[line[:-1]] = len(self.instructions)
            elif line:
                found = re.fullmatch(r"(?:@(%\w+) )?([\w.]+)(?:\s+(.*))?;", line)
                assert found is not None, line
                guard, operation, operands = found.groups()
                self.instructions.append((guard, operation, (operands or "").split(", ")))

    def run(self, block: int, width: int, place: int, values: dict[str, int]) -> dict[int, int]:
        """What one thread writes: address → 32 bits. Reading an unset register is an error."""
        held = {"%ctaid.x": block, "%ntid.x": width, "%tid.x": place}
        written: dict[int, int] = {}
        at = 0
        while True:
            guard, operation, operands = self.instructions[at]
            at += 1
            if guard is not None and not held[guard]:
                continue
            if operation == "ret":
                return written
            if operation == "bra":
                at = self.labels[operands[0]]
            elif operation.startswith("ld.param."):
                held[operands[0]] = values[operands[1].strip("[]")]
            elif operation == "st.global.u32":
                written[held[operands[0].strip("[]")]] = held[operands[1]]
            else:
                arguments = [_value(held, operand) for operand in operands[1:]]
                held[operands[0]] = OPERATIONS[operation](*arguments)


def _value(held: dict[str, int], operand: str) -> int:
    if operand.startswith("%"):
        return held[operand]
    return int(operand[2:], 16) if operand.startswith("0f") else int(operand, 0)


def launch(width: int, block: int, place: int, **changes: int) -> dict[int, int]:
    values = {"results": RESULTS, "threads": 1 << 20, "lane_mask": 255, "rounds": 7, **changes}
    return Program(PTX).run(block, width, place, values)


def test_the_entry_and_its_parameters_are_what_the_launch_passes() -> None:
    program = Program(PTX)
    assert program.name == NAME
    assert program.parameters == [
        ("u64", "results"),
        ("u32", "threads"),
        ("u32", "lane_mask"),
        ("u32", "rounds"),
    ]
    assert PTX.isascii()


def test_every_register_has_the_size_of_its_instruction() -> None:
    program = Program(PTX)
    sizes = {"pred": "pred", "u32": "32", "b32": "32", "f32": "32", "u64": "64"}
    for guard, operation, operands in program.instructions:
        kinds = [
            sizes[program.registers[operand.strip("[]")]]
            for operand in operands
            if operand.strip("[]") in program.registers
        ]
        size = operation[-2:]
        if operation.startswith("setp."):
            assert kinds == ["pred", *[size] * (len(kinds) - 1)], operation
        elif operation == "mul.wide.u32" or operation.startswith("st.global."):
            assert kinds == ["64", "32"]
        elif operation not in ("bra", "ret"):
            assert set(kinds) == {size}, operation
        assert guard is None or program.registers[guard] == "pred"
        named = [operand for operand in operands if operand.startswith("%")]
        special = {"%ctaid.x", "%ntid.x", "%tid.x"}
        assert set(named) - special <= set(program.registers)


@pytest.mark.parametrize("thread", [0, 1, 255, 256, 1000, 77777, (1 << 20) - 1])
def test_the_ptx_computes_what_python_expects(thread: int) -> None:
    block, place = divmod(thread, 256)
    written = launch(256, block, place)
    assert written == {RESULTS + 4 * thread: expected(thread % 256, 7)}


def test_a_whole_run_of_the_rounds_agrees() -> None:
    assert launch(256, 3, 14, rounds=256) == {RESULTS + 4 * 782: expected(782 % 256, 256)}


def test_a_thread_beyond_the_end_writes_nothing() -> None:
    assert launch(256, 4, 0, threads=1024) == {}
    assert launch(256, 3, 255, threads=1024) != {}


def test_every_lane_and_every_round_has_a_result_of_its_own() -> None:
    assert len({expected(lane, 256) for lane in range(256)}) == 256
    assert len({expected(0, rounds) for rounds in range(1, 300)}) == 299


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100"])
def test_nvidias_assembler_takes_the_ptx(architecture: str, tmp_path: Path) -> None:
    assembler = shutil.which("ptxas")
    if assembler is None:
        pytest.skip("ptxas is not installed; the interpreter above checks the text")
    source = tmp_path / "kernel.ptx"
    source.write_text(PTX)
    target = ["-o", str(tmp_path / "kernel.cubin")]
    ended = subprocess.run(
        [assembler, f"-arch={architecture}", "--warning-as-error", str(source), *target],
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
