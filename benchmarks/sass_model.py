"""A model of an H100: which of its units bounds a kernel, and how near that is to the limit.

It adds up, for every unit, the cycles that instructions occupy it, and takes the busiest unit.
Waiting for a load counts as a unit that all resident warps share. Other dependencies, bank
conflicts and barriers are not in it. docs/cuda-model.md says how far it can be trusted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.sass_code import (
    CALLS,
    GLOBAL,
    Instruction,
    Loop,
    Resources,
    hot_loop,
    innermost,
    loops,
    usual,
)

# NVIDIA H100 Tensor Core GPU Architecture (white paper), SXM5.
MULTIPROCESSORS = 132
CLOCK = 1.755e9  # hertz, under load
REGISTERS, SHARED, THREADS, BLOCKS = 65536, 233_472, 2048, 32  # of a multiprocessor
# CUDA C++ Programming Guide, "Arithmetic Instructions", compute capability 9.0: results a clock
# and multiprocessor, by 32 for instructions of a warp.
ISSUED = 4.0
INTEGERS = 64 / 32  # additions, logic, shifts, comparisons; packing of two 16-bit values
MULTIPLICATIONS = 64 / 32  # of integers, and what the compiler expresses by them
SPECIAL = 16 / 32  # exp2, log2, reciprocals; conversions between integers and floats
DOUBLES = 64 / 32
WORDS = 1.0  # of 32 bits, to or from shared memory and the first-level cache, and shuffled
# Dense 16-bit products: 4096 operations a clock and multiprocessor; TF32 half as many. mma.sync
# reaches 64 % of that ("Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via
# Microbenchmarking", arXiv:2402.13499).
TENSOR_OPERATIONS = {16: 4096, 32: 2048}
MMA_SYNC = 0.64
# The same paper: cycles until a load from memory arrives.
LATENCY = 478.8
# Measured: benchmarks/results/nvidia-h100-80gb-hbm3, cuda-ops ("copy"), and nvidia-h200,
# cuda-kmeans ("matrix product"). Fractions in records refer to such figures.
MEMORY = 2.43e12
MATRIX_OPERATIONS = {16: 661e12, 32: 360e12}

# An HMMA multiplies 16 x 8 x (the number behind 168).
_SHAPE = re.compile(r"HMMA\.168(\d+)")
_COMPARISONS = re.compile(r"FSETP|FMNMX|FSEL|FSET|HSETP2|HMNMX2|MOV|S2R|CS2R")
_SPECIAL_INTEGERS = re.compile(r"POPC|FLO|BREV")


def cycles(code: Iterable[Instruction]) -> dict[str, float]:
    """Return for each unit the cycles of a multiprocessor that the instructions of a warp take.

    The unit "memory" is left out: what comes from memory and what from a cache is not in the code.
    """
    taken = dict.fromkeys(("issue", "integers", "multiplier", "special", "doubles", "words"), 0.0)
    taken["tensor"] = 0.0
    for each in code:
        taken["issue"] += 1 / ISSUED
        if each.kind == "tensor":
            shape = _SHAPE.match(each.opcode)
            depth = int(shape[1]) if shape else 16
            bits = 32 if "TF32" in each.opcode else 16
            taken["tensor"] += 2 * 16 * 8 * depth / (TENSOR_OPERATIONS[bits] * MMA_SYNC)
        elif each.opcode.startswith(("IMAD", "IDP")):
            taken["multiplier"] += 1 / MULTIPLICATIONS
        elif each.kind in ("special", "conversion") or _SPECIAL_INTEGERS.match(each.opcode):
            taken["special"] += 1 / SPECIAL
        elif each.kind == "double":
            taken["doubles"] += 1 / DOUBLES
        elif each.kind in ("shuffle", "shared load", "shared store", "local", *GLOBAL):
            taken["words"] += max(1.0, each.bits / 32) / WORDS
        elif each.kind in ("integer", "packing") or _COMPARISONS.match(each.opcode):
            taken["integers"] += 1 / INTEGERS
    return taken


def memory_cycles(nbytes: float) -> float:
    """Return the cycles in which a multiprocessor gets its share of bytes from memory."""
    return nbytes / (MEMORY / MULTIPROCESSORS / CLOCK)


def moved(code: Iterable[Instruction]) -> int:
    """Return the bytes of global memory that the instructions of a warp name."""
    return sum(32 * each.bits // 8 for each in code if each.kind in GLOBAL)


def busiest(taken: Mapping[str, float]) -> tuple[str, float]:
    """Return the unit that takes most cycles, and how many."""
    unit = max(taken, key=taken.__getitem__)
    return unit, taken[unit]


def blocks_on_multiprocessor(needed: Resources, threads: int, dynamic: int) -> int:
    """Return how many blocks fit, by registers, shared memory and threads."""
    warps = math.ceil(threads / 32)
    registers = math.ceil(needed.registers * 32 / 256) * 256 * warps
    shared = math.ceil((needed.shared + dynamic + 1024) / 128) * 128  # the system keeps 1 KiB
    return min(BLOCKS, REGISTERS // max(registers, 1), SHARED // shared, THREADS // (32 * warps))


@dataclass(frozen=True)
class Phase:
    """A part of a kernel and how often it runs.

    Attributes
    ----------
    where
        "inner": the innermost loop with the most markers or, if none has one, the loop that has
        markers and contains no other with them; "around": the loop around it (around the hot loop
        without a marker), less the loops inside; "outer": all loops around that one, likewise;
        "hot": the loop with the most markers, the shortest of several, and all inside; "once": what
        is in no loop.
    times
        Executions of the marker in "inner" and "hot", and else of the part, by warps.
    marker
        Pattern of a whole opcode.
    """

    where: str
    times: float
    marker: str = ""


@dataclass(frozen=True)
class Work:
    """What a kernel has to do in one case of the benchmarks, by some unit of it.

    Attributes
    ----------
    kernel
        Pattern of its name.
    case
        For the reader.
    phases
        What runs for a unit.
    nbytes
        To be read and written for a unit, once each.
    operations, bits
        Of a unit, and of which type's matrix product.
    shared
        Dynamic shared memory of a block, bytes.
    rare
        Pattern of opcodes: blocks of code with one of these hardly ever run.
    """

    kernel: str
    case: str
    phases: tuple[Phase, ...]
    nbytes: float = 0.0
    operations: float = 0.0
    bits: int = 16
    shared: int = 0
    rare: str = CALLS


# Each unit is what a warp does in one go, unless the comment says otherwise.
_STEP = 295 / 112
_KMEANS = "k 1000 or more, D 128: the products alone"
WORK = [
    # Eight rows of a patch and eight of its margins, by a block each of eight warps; boxes are of
    # 295 x 295, as the benchmark draws them on average. A pair of rows takes the source rows under
    # both; a warp sums 32 bytes of each of four parts. 28 warps take the pixels of 8 rows of 112.
    Work(
        r"crop_kernel<BFloat16, 3>",
        "1500 patches of 112 in 224",
        (
            Phase("inner", 4 * (3 * _STEP + 1) * 4 * 8, r"LDS\.U8"),
            Phase("around", 4 * 8, r"LDS\.U8"),
            Phase("inner", 28 * 2 * _STEP * 3, r"LDS"),
            Phase("inner", (9 * _STEP + 1) * 2, r"LDGSTS.*"),
            Phase("inner", 8 * (3 + 1 + 1 + 2), r"STG\.E\.128"),
            Phase("outer", 8, r"LDS\.U8"),
            Phase("once", 8),
        ),
        nbytes=842_948_931 / 1500 / 14,
        shared=74_000,
        rare=rf"{CALLS}|LDG?\.E\.U8",
    ),
    # A row of logits.
    Work(
        r"score_kernel<float, false>",
        "(30000, 1000)",
        (Phase("inner", 1000 / 4 / 32, r"LDG\.E\.128"), Phase("around", 1, r"LDG\.E\.128")),
        nbytes=4000 + 12,
    ),
    Work(
        r"score_kernel<BFloat16, false>",
        "(30000, 1000)",
        (Phase("inner", 1000 / 8 / 32, r"LDG\.E\.128"), Phase("around", 1, r"LDG\.E\.128")),
        nbytes=2000 + 12,
    ),
    # A class, by a block of eight warps: its 300 images, gathered in advance or found among all
    # labels; eight passes over their keys; the places of 40.
    *(
        Work(
            rf"select_kernel<{grouped}>",
            f"1000 classes of 300 images{case}",
            (
                Phase("inner", rounds, r"STS\.64"),
                Phase("inner", 8 * 300 / 32, r"LDS\.64"),
                Phase("around", 8 * 8, r"LDS\.64"),
                Phase("inner", 2 * 40, r"LD\.E\.64"),
                Phase("once", 8),
            ),
            nbytes=300 * (4 + 8),
            shared=74_768,
        )
        for grouped, case, rounds in (
            ("true", "", 300 / 32),
            ("false", ", if all labels were read", 300_000 / 32),
        )
    ),
    # A channel of an image: 224 rows of 14 words, by a block.
    Work(
        r"collage_kernel<uint4>",
        "2 x 2 of 112, uint8",
        (
            Phase("inner", 224 * 14 / 32, r"STG\.E\.128"),
            Phase("inner", 8, r"STS\.64"),
            Phase("once", 8),
        ),
        nbytes=2 * 224 * 224,
        shared=10_240,
    ),
    # Eight rows of 32 columns, doubled, from six of the image; and of the images, eight rows that
    # 18 of the result reach.
    Work(
        r"formation_kernel<float>",
        "40 of 224, factor 2",
        (Phase("inner", 6 * 2, r"LDG\.E"), Phase("around", 8), Phase("once", 1)),
        nbytes=8 * 32 * 4 * 5 / 4,
    ),
    Work(
        r"adjoint_kernel<float>",
        "40 of 224, factor 2",
        (Phase("around", 18, r"LDG\.E"), Phase("once", 1)),
        nbytes=8 * 32 * 4 * 5,
    ),
    # 32 values of two lists, and of the third.
    *(
        Work(
            kernel, f"float32, {metric}", (Phase("inner", 1, r"STG\.E"),), nbytes=32 * 12
        )
        for kernel, metric in (
            (r"distance_kernel<false>", "mse"),
            (r"direction_kernel", "l2, the second launch"),
        )
    ),
    # 128 values of four samples, beside 6 candidates of a draw, which the model takes for 8.
    *(
        Work(
            rf"measure_kernel<{samples}, 1>",
            "k 128, D 2048",
            (Phase("inner", loads, r"LDG\.E\.128"), Phase("around", 128 / 2048)),
            nbytes=4 * 128 * size,
            rare=rf"{CALLS}|{rare}",
        )
        for samples, size, loads, rare in (
            ("float", 4, 12, r"LDG\.E"),
            ("Half", 2, 8, r"LDG\.E\.U16"),
        )
    ),
    # A sample and its centre, by a warp.
    Work(
        r"own_kernel<float>",
        "D 2048",
        (Phase("inner", 2048 / 32 * 2, r"LDG\.E"), Phase("around", 1)),
        nbytes=2048 * 4,
    ),
    # A warp's products of 64 samples by 32 centres, over 32 words of each; in exact mode over 32
    # values, of each product of their terms.
    # Cells of 2 x 2 pixels by 128 channels, two of each thread; the sums of a block are left out.
    *(
        Work(
            rf"{kernel}_kernel<true, true, \(Phase\)0>",
            f"256 x 128 x 32 x 32, instance, {case}",
            (
                Phase("inner", loads, r"LDG\.E\.128"),
                *others,
                Phase("inner", stores, r"STG\.E\.128"),
                Phase("once", 1 / 2),
            ),
            nbytes=4 * 128 * 4 * quarters / 4,
            shared=shared,
        )
        for kernel, case, loads, others, stores, quarters, shared in (
            ("forward", "forward", 4, (Phase("inner", 4, r"LDS\.128"),), 1, 5, 33_056),
            ("backward", "backward", 5, (), 4, 9, 41_536),
            ("second", "second backward", 9, (), 5, 14, 75_168),
        )
    ),
    *(
        Work(
            rf"assign_kernel<{types}, \d, 128>",
            _KMEANS,
            (Phase("hot", 64, "HMMA.*"),),
            operations=64 * operations,
            bits=bits,
            shared=4 * 128 * 36 * 4,
        )
        for types, operations, bits in (
            ("Half, Fp16", 4096, 16),
            ("BFloat16, Bf16", 4096, 16),
            ("float, Tf32", 2048, 32),
        )
    ),
    *(
        Work(
            rf"exact_kernel<{samples}, 128>",
            "D 2048: the products alone",
            (Phase("hot", 32 * products, "HMMA.*"),),
            operations=32 * 4096,
            bits=bits,
            shared=shared,
        )
        for samples, products, bits, shared in (
            ("Half", 2, 16, 2 * 3 * 128 * 20 * 4 + 4 * 128 * 20),
            ("BFloat16", 3, 16, 2 * 4 * 128 * 20 * 4 + 4 * 128 * 20),
            ("float", 3, 32, 2 * (128 * 48 + 2 * 128 * 20) * 4 + 4 * 128 * 20),
        )
    ),
]  # fmt: skip


def work_of(kernel: str) -> Work | None:
    """Return what is known of a kernel's work."""
    return next((work for work in WORK if re.match(work.kernel, kernel)), None)


def expected(work: Work, code: Sequence[Instruction], warps: int) -> tuple[float, str] | None:
    """Return the fraction of its limit that a kernel reaches at most, and the unit that bounds it.

    None if the code has no such loop: the kernel has changed, and WORK has not.

    Parameters
    ----------
    work
        Of the kernel.
    code
        All of it.
    warps
        That a multiprocessor holds at a time.
    """
    found = loops(code, work.rare)
    taken = {"memory": memory_cycles(work.nbytes), "latency": 0.0}
    for phase in work.phases:
        part, times = _part(phase, usual(code, work.rare), found)
        if not part or not times:
            return None
        for unit, each in cycles(part).items():
            taken[unit] = taken.get(unit, 0.0) + times * each
        if any(each.kind == "global load" for each in part):
            taken["latency"] += times * LATENCY / warps
    limit = max(
        memory_cycles(work.nbytes),
        work.operations / (MATRIX_OPERATIONS[work.bits] / MULTIPROCESSORS / CLOCK),
    )
    unit, most = busiest(taken)
    return limit / most, unit


def loop_of(phase: Phase, found: Sequence[Loop]) -> Loop | None:
    """Return the loop that a phase names by its marker; the hot loop without one."""

    def markers(loop: Loop) -> int:
        return _count(phase.marker, loop.code)

    marked = [each for each in found if markers(each)]
    if not phase.marker:
        return hot_loop(found)
    if phase.where == "hot":
        return max(marked, key=lambda each: (markers(each), -len(each.code)), default=None)
    plain = [each for each in innermost(found) if each in marked]
    return max(plain or innermost(marked), key=markers, default=None)


def _count(marker: str, code: Iterable[Instruction]) -> int:
    return sum(re.fullmatch(marker, each.opcode) is not None for each in code)


def _part(
    phase: Phase, code: Sequence[Instruction], found: Sequence[Loop]
) -> tuple[Sequence[Instruction], float]:
    """Return the code of a phase, and how often it runs."""
    if phase.where == "once":
        looped = {each.address for loop in found for each in loop.code}
        return [each for each in code if each.address not in looped], phase.times
    loop = loop_of(phase, found)
    if loop is None:
        return [], 0.0
    if phase.where in ("inner", "hot"):
        return loop.code, phase.times / _count(phase.marker, loop.code)
    around = sorted(
        (each for each in found if each.contains(loop)), key=lambda each: len(each.code)
    )
    chosen = around[:1] if phase.where == "around" else around[1:]
    return [each for own in chosen for each in _own(own, found)], phase.times


def _own(loop: Loop, found: Sequence[Loop]) -> list[Instruction]:
    """Return the code of a loop that is in none of the loops inside."""
    nested = {each.address for other in found if loop.contains(other) for each in other.code}
    return [each for each in loop.code if each.address not in nested]
