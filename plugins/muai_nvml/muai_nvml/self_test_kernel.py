"""The computation of the self-test: as PTX, which the driver compiles for its GPU, and in Python.

Each thread runs rounds of an integer hash that feeds a fused multiply-add whose bits are mixed
back into the hash, so that one wrong bit anywhere changes the result. Everything in it has exactly
one right answer: the integers wrap modulo 2**32, and `fma.rn.f32` is exact up to the one rounding
that IEEE 754 prescribes.
"""

import struct

NAME = "muai_self_test"

#: Threads whose numbers agree in the bits of `lane_mask` compute the same. Parameters: where the
#: results go (4 bytes for each thread), the number of threads, `lane_mask`, and the rounds (>= 1).
#: PTX 6.0 for sm_50 is understood by every driver since CUDA 9 and compiled for every later GPU.
PTX = """
.version 6.0
.target sm_50
.address_size 64

.visible .entry muai_self_test(
    .param .u64 results,
    .param .u32 threads,
    .param .u32 lane_mask,
    .param .u32 rounds
)
{
    .reg .pred %beyond, %more;
    .reg .u32  %block, %width, %place, %thread, %count, %mask, %left;
    .reg .b32  %hash, %bits;
    .reg .f32  %x, %y, %z;
    .reg .u64  %start, %offset, %address;

    ld.param.u64        %start, [results];
    ld.param.u32        %count, [threads];
    ld.param.u32        %mask, [lane_mask];
    ld.param.u32        %left, [rounds];

    mov.u32             %block, %ctaid.x;
    mov.u32             %width, %ntid.x;
    mov.u32             %place, %tid.x;
    mad.lo.u32          %thread, %block, %width, %place;
    setp.ge.u32         %beyond, %thread, %count;
    @%beyond bra        finish;

    and.b32             %hash, %thread, %mask;
    mov.f32             %x, 0f3F800000;

round:
    mad.lo.u32          %hash, %hash, 1664525, 1013904223;
    shr.u32             %bits, %hash, 15;
    xor.b32             %hash, %hash, %bits;

    shr.u32             %bits, %hash, 9;
    or.b32              %bits, %bits, 0x3F800000;
    mov.b32             %y, %bits;
    and.b32             %bits, %hash, 0x007FFFFF;
    or.b32              %bits, %bits, 0x3F800000;
    mov.b32             %z, %bits;
    fma.rn.f32          %x, %x, %y, %z;

    mov.b32             %bits, %x;
    xor.b32             %hash, %hash, %bits;
    and.b32             %bits, %bits, 0x007FFFFF;
    or.b32              %bits, %bits, 0x3F800000;
    mov.b32             %x, %bits;

    sub.u32             %left, %left, 1;
    setp.ne.u32         %more, %left, 0;
    @%more bra          round;

    cvta.to.global.u64  %address, %start;
    mul.wide.u32        %offset, %thread, 4;
    add.u64             %address, %address, %offset;
    st.global.u32       [%address], %hash;

finish:
    ret;
}
"""

_FLOAT = struct.Struct("<f")
_WORD = struct.Struct("<I")
_ONE = 0x3F800000
_MANTISSA = 0x007FFFFF


def expected(lane: int, rounds: int) -> int:
    """What a thread of this lane (its number, masked) writes: 32 bits.

    x, y and z lie in [1, 2) and have 24 significant bits. So x * y + z needs at most 49 bits and is
    exact in Python's double precision; packing it as a float rounds once, to nearest even.
    """
    word = lane
    x = 1.0
    for _ in range(rounds):
        word = (word * 1664525 + 1013904223) & 0xFFFFFFFF
        word ^= word >> 15
        (y,) = _FLOAT.unpack(_WORD.pack(word >> 9 | _ONE))
        (z,) = _FLOAT.unpack(_WORD.pack(word & _MANTISSA | _ONE))
        (bits,) = _WORD.unpack(_FLOAT.pack(x * y + z))
        word ^= bits
        (x,) = _FLOAT.unpack(_WORD.pack(bits & _MANTISSA | _ONE))
    return word
