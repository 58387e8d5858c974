"""What is read from listings of the CUDA compiler, on short ones that were counted by hand."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# A loop (0x20 to 0x90) that contains another (0x30 to 0x60) and a block that calls; after it a
# shuffle that parted threads would make at 0xc0, and the function that is called at 0xe0.
LISTING = """
	code for sm_90
		Function : outer
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;    /* 0x00000a00ff017b82 */
                                                             /* 0x000ff00000000800 */
        /*0010*/                   S2R R0, SR_TID.X ;        /* 0x0000000000007919 */
        /*0020*/                   IADD3 R2, R2, 0x1, RZ ;   /* 0x0000000000007919 */
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;  /* 0x0 */
        /*0040*/                   FFMA R8, R4, R5, R8 ;     /* 0x0 */
        /*0050*/                   HADD2.F32 R9, -RZ, R4.H0_H0 ;     /* 0x0 */
        /*0060*/               @P0 BRA 0x30 ;                /* 0x0 */
        /*0070*/               @P1 BRA 0x90 ;                /* 0x0 */
        /*0080*/                   CALL.REL.NOINC 0xe0 ;     /* 0x0 */
        /*0090*/              @!P2 BRA 0x20 ;                /* 0x0 */
        /*00a0*/                   BRA.DIV UR4, 0xc0 ;       /* 0x0 */
        /*00b0*/                   EXIT ;                    /* 0x0 */
        /*00c0*/                   WARPSYNC.COLLECTIVE R1, 0xd0 ;    /* 0x0 */
        /*00d0*/                   BRA 0xb0 ;                /* 0x0 */
        /*00e0*/                   MUFU.RCP R1, R1 ;         /* 0x0 */
        /*00f0*/                   RET.REL.NODEC R2 0x0 ;    /* 0x0 */
        /*0100*/                   BRA 0x100;                /* 0x0 */
		Function : second
        /*0000*/                   BSSY B0, 0x50 ;           /* 0x0 */
        /*0010*/               @P0 BRA 0x30 ;                /* 0x0 */
        /*0020*/                   BSYNC B0 ;                /* 0x0 */
        /*0030*/                   LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64] ;  /* 0x0 */
        /*0040*/                   BRA 0x20 ;                /* 0x0 */
        /*0050*/                   HMMA.16816.F32 R4, R8, R10, R4 ;  /* 0x0 */
        /*0060*/                   I2F.U8 R3, R3 ;           /* 0x0 */
        /*0070*/                   LDSM.16.M88.4 R4, [R3] ;  /* 0x0 */
        /*0080*/                   STG.E.U16 desc[UR4][R2.64], R3 ;  /* 0x0 */
        /*0090*/               @P0 BRA 0x0 ;                 /* 0x0 */
        /*00a0*/                   EXIT ;                    /* 0x0 */
"""
PTXAS = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'outer' for 'sm_90'
ptxas info    : Function properties for outer
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 107 registers, used 1 barriers, 8 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 294.861 ms
ptxas info    : Compiling entry function 'second' for 'sm_90'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers
"""
ELF = """
.nv.info.outer
	<0x1>
	Attribute:	EIATTR_MAX_THREADS
	Format:	EIFMT_SVAL
	Value:	0x100 0x2 0x1
	<0x2>
.nv.info.second
	<0x1>
	Attribute:	EIATTR_REGCOUNT
"""


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("benchmarks.sass_code")


@pytest.fixture
def model(code: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.sass_model")


@pytest.fixture
def sass(code: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.sass")


def test_instructions_loops_and_what_is_rare(code: ModuleType) -> None:
    found = code.functions(LISTING)
    assert {name: len(each) for name, each in found.items()} == {"outer": 17, "second": 11}
    around, inner = code.loops(found["outer"])
    assert [each.address for each in inner.code] == [0x30, 0x40, 0x50, 0x60]
    assert inner.kinds == {"global load": 1, "float": 2, "control": 1}
    assert [each.address for each in around.code] == [0x20, *range(0x30, 0x80, 0x10), 0x90]
    assert code.hot_loop([around, inner]) is inner
    usual = [each.address for each in code.usual(found["outer"])]
    assert usual == [*range(0, 0x80, 0x10), 0x90, 0xA0, 0xB0]


def test_code_that_leads_back_into_a_loop_belongs_to_it(code: ModuleType) -> None:
    """The block at 0x30 meets the others by the barrier's target, 0x50, and is no loop."""
    (loop,) = code.loops(code.functions(LISTING)["second"])
    assert [each.address for each in loop.code] == list(range(0, 0xA0, 0x10))
    assert code.hot_loop([loop]) is loop


def test_kinds_and_widths(code: ModuleType) -> None:
    bits = {each.opcode: (each.kind, each.bits) for each in code.functions(LISTING)["second"][3:9]}
    assert bits == {
        "LDGSTS.E.BYPASS.128": ("async copy", 128),
        "BRA": ("control", 32),
        "HMMA.16816.F32": ("tensor", 32),
        "I2F.U8": ("conversion", 8),
        "LDSM.16.M88.4": ("shared load", 128),
        "STG.E.U16": ("global store", 16),
    }
    kinds = {
        "LD.E.U8": "global load", "LDGDEPBAR": "barrier", "LDS.64": "shared load",
        "LDC.64": "constant", "IMAD.MOV.U32": "move", "IMAD.WIDE.U32": "multiply",
        "IADD3.X": "integer", "FLO.U32": "integer", "FSETP.GT.AND": "float",
        "F2FP.BF16.F32.PACK_AB": "packing", "I2FP.F32.S32": "packing", "HFMA2.MMA": "float",
        "UIADD3": "uniform", "REDUX.MAX": "shuffle", "REDG.E.ADD.64.STRONG.GPU": "global store",
        "DFMA": "double", "ATOMS.ADD": "shared store", "STL": "local",
    }  # fmt: skip
    assert {opcode: code.kind_of(opcode) for opcode in kinds} == kinds


def test_resources(code: ModuleType) -> None:
    assert code.resources(PTXAS) == {
        "outer": code.Resources(registers=107, stack=8, spills=16, shared=1024),
        "second": code.Resources(registers=32, stack=0, spills=0, shared=0),
    }
    assert code.launch_bounds(ELF) == {"outer": 512}


def test_blocks_that_fit(code: ModuleType, model: ModuleType) -> None:
    """As NVIDIA's occupancy calculator has them for compute capability 9.0."""

    def blocks(registers: int, threads: int, static: int = 0, dynamic: int = 0) -> int:
        needed = code.Resources(registers, 0, 0, static)
        found: int = model.blocks_on_multiprocessor(needed, threads, dynamic)
        return found

    assert blocks(128, 256) == 2
    assert blocks(129, 256) == 1  # registers come in eights
    assert blocks(32, 256) == 8  # threads
    assert blocks(16, 32) == 32  # blocks
    assert blocks(32, 128, 1024, 98 * 1024) == 2  # 100 KiB each with the system's


def test_cycles_of_each_unit(code: ModuleType, model: ModuleType) -> None:
    (loop,) = code.loops(code.functions(LISTING)["second"])
    taken = model.cycles(loop.code)
    assert taken["issue"] == 10 / 4
    assert taken["tensor"] == 2 * 16 * 8 * 16 / (4096 * 0.64)
    assert taken["special"] == 2  # the conversion
    assert taken["words"] == 4 + 4 + 1  # async copy, LDSM, 16-bit store
    assert model.busiest(taken) == ("words", 9)
    assert model.moved(loop.code) == 32 * (16 + 2)


def test_expected_fraction(code: ModuleType, model: ModuleType) -> None:
    outer = code.functions(LISTING)["outer"]

    def work(*phases: object, nbytes: float) -> object:
        return model.Work("", "", phases, nbytes=nbytes)

    inner = model.Phase("inner", 8, r"LDG\.E\.128")
    issued = 8 * 4 / 4  # the inner loop has four instructions
    words = 8 * 4
    waiting = 8 * model.LATENCY / 64
    assert waiting > words > issued
    nbytes = 8 * 512.0
    limit = model.memory_cycles(nbytes)
    assert limit > waiting
    assert model.expected(work(inner, nbytes=nbytes), outer, 64) == (1.0, "memory")
    fraction, unit = model.expected(work(inner, nbytes=nbytes / 8), outer, 64)
    assert unit == "latency"
    assert fraction == pytest.approx(limit / 8 / waiting)
    # Around: 0x20, 0x70 and 0x90. Once: two before the loops and two behind them.
    around, once = model.Phase("around", 1000), model.Phase("once", 1000)
    fraction, unit = model.expected(work(around, nbytes=nbytes), outer, 64)
    assert (fraction, unit) == (pytest.approx(limit / (1000 * 3 / 4)), "issue")
    fraction, unit = model.expected(work(once, nbytes=nbytes), outer, 64)
    assert (fraction, unit) == (pytest.approx(limit / (1000 * 4 / 4)), "issue")
    gone = model.Phase("inner", 1, r"LDG\.E\.64")
    assert model.expected(work(gone, nbytes=nbytes), outer, 64) is None


def test_names_without_namespaces_and_parameters(sass: ModuleType) -> None:
    name = "void pydream::(anonymous namespace)::f<pydream::Half, (int)3>(pydream::Task, bool)"
    assert sass.short_name(name) == "f<Half, (int)3>"
    assert sass.short_name("pydream::(anonymous namespace)::g(long)") == "g"


def test_a_change_shows_both_figures(sass: ModuleType, code: ModuleType) -> None:
    kernel = sass.describe(
        "second", code.functions(LISTING)["second"], code.resources(PTXAS)["second"], 256
    )
    same = "\n".join(sass.lines(kernel, kernel))
    assert "→" not in same
    assert "inner loop: all 10, tensor 1, conversion 1, shared load 1, global store 1" in same
    assert "global store: 16 1; async copy: 128 1" in same
    before = {**kernel, "registers": 40, "loop": {"all": 12, "double": 2}}
    text = "\n".join(sass.lines(kernel, before))
    assert "registers 40 → 32" in text
    assert "inner loop: all 12 → 10, tensor 0 → 1" in text
    assert "double 2 → 0" in text


def test_the_baseline_has_every_file(sass: ModuleType) -> None:
    baseline = json.loads(sass.BASELINE.read_text())
    sources = {
        path.relative_to(REPOSITORY / "csrc").as_posix()
        for path in (REPOSITORY / "csrc").glob("*/*_cuda.cu")
    }
    assert set(baseline) == {"compiler"} | sources


def test_flags_are_those_of_the_build(sass: ModuleType) -> None:
    build = (REPOSITORY / "CMakeLists.txt").read_text()
    assert "CMAKE_CUDA_STANDARD 17" in build
    assert "-std=c++17" in sass.FLAGS
    (options,) = [line for line in build.splitlines() if "COMPILE_LANGUAGE:CUDA>:-X" in line][:1]
    device = [each.strip(' ">)') for each in options.split(";") if "Xcompiler" not in each]
    assert set(device) <= set(sass.FLAGS)


def test_a_file_is_compiled_and_described(
    sass: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        sass.nvcc()
        sass.tool("cuobjdump")
    except SystemExit as missing:
        pytest.skip(str(missing))
    if shutil.which("c++filt") is None:
        pytest.skip("no c++filt")
    source = tmp_path / "small_cuda.cu"
    source.write_text(
        "template <class T> __global__ void __launch_bounds__(128) triple(const T* from, T* to,\n"
        "                                                                int count) {\n"
        "#pragma unroll 1\n"
        "  for (int at = threadIdx.x; at < count; at += 128) to[at] = from[at] * T(3);\n"
        "}\n"
        "template __global__ void triple(const float*, float*, int);\n"
        "template __global__ void triple(const double*, double*, int);\n"
    )
    found = sass.compile_file(source)
    assert list(found) == ["triple<double>", "triple<float>"]
    assert found["triple<float>"]["global load bits"] == {"32": 1}
    assert found["triple<double>"]["global store bits"] == {"64": 1}
    assert found["triple<float>"]["loop"]["float"] == 1
    assert found["triple<double>"]["loop"]["double"] == 1
    assert found["triple<float>"]["blocks"] == 16  # of 128 threads
    assert found["triple<float>"]["spills"] == 0
