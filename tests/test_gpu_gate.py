"""The GPU gate's reading and judging, on recorded output of NVIDIA's compiler and disassembler."""

import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ci"))

import gpu_gate
from gpu_compiler import Code, Log, read_code, read_log

LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'huber' for 'sm_90'
ptxas info    : Function properties for huber
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 65 bytes smem, 392 bytes cmem[0]
ptxas info    : Compile time = 15.882 ms
"""
SPILLING_LOG = """\
ptxas info    : Compiling entry function 'huber' for 'sm_90'
ptxas info    : Function properties for huber
ptxas         .     496 bytes stack frame, 896 bytes spill stores, 936 bytes spill loads
ptxas info    : Used 64 registers, used 0 barriers, 504 bytes cumulative stack size
ptxas info    : Function properties for _Z5otherfi
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
"""
WARNING_LOG = """\
kernel.cu(3): warning #177-D: variable "unused" was declared but never referenced
  int unused; x[i] = y[i];
      ^

Remark: The warnings can be suppressed with "-diag-suppress <warning-number>"

"""
ERROR_LOG = """\
kernel.cu(3): error: identifier "INFINITY" is undefined
  x[i] = INFINITY;
         ^

1 error detected in the compilation of "kernel.cu".
"""
HEADER_LOG = """\
kernel.cu(1): catastrophic error: cannot open source file "cstdint"
  #include <cstdint>
                    ^

1 catastrophic error detected in the compilation of "kernel.cu".
Compilation terminated.
"""
ASSEMBLER_LOG = """\
ptxas info    : Used 14 registers, used 1 barriers, 49600 bytes smem

ptxas error   : Entry function 'huber' uses too much shared data (0xc1c0 bytes, 0xc000 max)
"""
DISASSEMBLY = """\
	//----- nvinfo : EIATTR_MAX_THREADS
	.align		4
.L_17:
        /*0054*/ 	.byte	0x04, 0x05
        /*0056*/ 	.short	(.L_19 - .L_18)
.L_18:
        /*0058*/ 	.word	0x00000100
        /*005c*/ 	.word	0x00000001

//--------------------- .text.huber                 --------------------------
	.section	.text.huber,"ax",@progbits
.text.huber:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_1) ;
        /*0020*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0030*/               @P1 LDG.E.128.CONSTANT R8, desc[UR4][R6.64+0x10] ;
        /*0040*/             @!UP0 UIADD3 UR4, UR4, 0x1, URZ ;
        /*0050*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm3x_div_rn_ftz_f32_slowpath) ;
        /*0060*/                   ATOM.E.ADD.F16x2.RN.STRONG.GPU PT, R2, [R2], R5 ;
        /*0070*/                   STG.E.128 desc[UR4][R6.64], R12 ;
        /*0080*/                   ERRBAR;
        /*0090*/                   NOP;
.L_x_1:
        /*00a0*/                   EXIT ;
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel with no faults, unless told otherwise."""

    label: str = "elementwise huber float32"
    text: str = "the text"
    name: str = "huber"
    block: int = 256
    dynamic_shared: int = 0
    vectorized: bool = False
    computes_in: str = "float"
    hot: bool = True
    alone: bool = False


FINE = Log(entries=("huber",), registers=32, shared=65)


def wrong(opcodes=(), *, number=90, log=FINE, bound=None, **kernel):
    """The findings on a kernel with these opcodes, joined."""
    found = gpu_gate.findings(Kernel(**kernel), number, log, Code(Counter(opcodes), bound))
    return "; ".join(found)


# -- reading -----------------------------------------------------------------------------------------


def test_log_of_a_clean_compilation():
    assert read_log(LOG) == FINE


def test_log_adds_spills_of_functions_that_were_not_inlined():
    log = read_log(SPILLING_LOG)
    assert (log.registers, log.stack, log.spill) == (64, 504, 896 + 936 + 4 + 4)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (WARNING_LOG, 'kernel.cu(3): warning #177-D: variable "unused" was declared but never referenced'),
        (ERROR_LOG, 'kernel.cu(3): error: identifier "INFINITY" is undefined'),
        (HEADER_LOG, 'kernel.cu(1): catastrophic error: cannot open source file "cstdint"'),
        (ASSEMBLER_LOG, "ptxas error   : Entry function 'huber' uses too much shared data (0xc1c0 bytes, 0xc000 max)"),
        ("error: NVRTC_ERROR_INVALID_OPTION\n", "error: NVRTC_ERROR_INVALID_OPTION"),
    ],
)
def test_log_gives_the_first_line_of_each_complaint(text, complaint):
    assert read_log(text).complaints == (complaint,)
    assert read_log(LOG + text + LOG).complaints == (complaint,)


def test_code_has_opcodes_with_modifiers_and_the_launch_bound():
    code = read_code(DISASSEMBLY)
    assert code.launch_bound == 256
    assert code.opcodes == {
        "LDC": 1,
        "BRA": 1,
        "LDG.E.128.CONSTANT": 2,
        "UIADD3": 1,
        "CALL.REL.NOINC": 1,
        "ATOM.E.ADD.F16x2.RN.STRONG.GPU": 1,
        "STG.E.128": 1,
        "ERRBAR": 1,
        "NOP": 1,
        "EXIT": 1,
    }


def test_code_without_launch_bound():
    assert read_code(DISASSEMBLY.replace("MAX_THREADS", "FRAME_SIZE")).launch_bound is None


def test_instruction_counts():
    counts = gpu_gate.instruction_counts(read_code(DISASSEMBLY).opcodes)
    assert {name: number for name, number in counts.items() if number} == {
        "all": 10,
        "load128": 2,
        "load": 2,
        "store128": 1,
        "store": 1,
        "call": 1,
        "float_atomic": 1,
    }


# -- judging -----------------------------------------------------------------------------------------


def test_a_clean_kernel_has_no_findings():
    assert wrong(["LDG.E", "STG.E", "SHFL.BFLY", "BAR.SYNC.DEFER_BLOCKING", "CALL.REL.NOINC"]) == ""


def test_complaints_stand_alone():
    log = read_log(WARNING_LOG + SPILLING_LOG)
    assert wrong(log=log) == log.complaints[0]


@pytest.mark.parametrize("entries", [(), ("other",), ("huber", "other")])
def test_the_text_has_one_kernel_of_the_given_name(entries):
    assert "not just huber" in wrong(log=replace(FINE, entries=entries))


def test_only_hot_kernels_may_not_spill():
    log = read_log(SPILLING_LOG)
    assert wrong(log=log) == "spills: 1840 bytes stored and loaded per thread; a stack frame of 504 bytes per thread"
    assert wrong(log=log, hot=False) == ""


@pytest.mark.parametrize(
    ("registers", "block", "fits"),
    # 65 registers are allocated as 72; 992 threads take as many as 1024: a quarter of the warps each
    [(64, 1024, True), (65, 1024, False), (64, 992, True), (65, 896, True), (73, 896, False), (255, 256, True)],
)
def test_registers_of_a_block(registers, block, fits):
    assert (wrong(log=replace(FINE, registers=registers), block=block) == "") == fits


def test_block_within_the_launch_bound():
    assert wrong(bound=256) == ""
    assert wrong(bound=128) == "a block of 256 threads, at most 128 allowed"
    assert "at most 1024 allowed" in wrong(block=1056, log=replace(FINE, registers=16))


@pytest.mark.parametrize(
    ("number", "most"), [(75, 65536), (80, 166912), (86, 101376), (90, 232448), (100, 232448), (120, 101376)]
)
def test_shared_memory_of_each_architecture(number, most):
    assert wrong(number=number, dynamic_shared=most - FINE.shared) == ""
    found = wrong(number=number, dynamic_shared=most - FINE.shared + 1)
    assert found == f"{most + 1} bytes of shared memory, at most {most} allowed"


def test_static_shared_memory():
    assert wrong(log=replace(FINE, shared=49152)) == ""
    assert "static" in wrong(log=replace(FINE, shared=49153))


@pytest.mark.parametrize("load", ["LDG.E.128", "LDG.E.128.SYS", "LDG.E.NA.128.CONSTANT", "LDG.E.ENL2.256.CONSTANT"])
def test_vector_loads_and_stores(load):
    assert wrong([load, "STG.E.EF.128"], vectorized=True) == ""
    assert wrong([load, "STG.E.64"], vectorized=True) == "no 128-bit store to global memory"
    assert wrong(["LDG.E.64", "LDS.128", "STG.E.128"], vectorized=True) == "no 128-bit load from global memory"


@pytest.mark.parametrize(
    "opcode",
    [
        "RED.E.ADD.F32.FTZ.RN.STRONG.GPU",
        "REDG.E.ADD.F32x4.FTZ.RN.STRONG.GPU",
        "REDG.E.ADD.F64.RN.STRONG.GPU",
        "ATOMG.E.ADD.F32.FTZ.RN.STRONG.GPU",
        "ATOM.E.ADD.BF16_V2.RN.STRONG.GPU",
        "ATOMS.CAST.SPIN.64",
        "ATOMG.E.CAS.STRONG.GPU",
    ],
)
def test_floating_point_atomics(opcode):
    assert "atomics" in wrong([opcode])


@pytest.mark.parametrize(
    "opcode", ["ATOMG.E.INC.STRONG.GPU", "ATOMS.ADD", "REDG.E.MAX.S32.STRONG.GPU", "REDUX.SUM", "CREDUX.MAX.S32"]
)
def test_other_atomics_and_warp_reductions(opcode):
    assert wrong([opcode]) == ""


def test_a_float_kernel_may_add_in_double_and_convert():
    conversions = ["F2F.F64.F32", "F2F.F32.F64", "I2F.F64", "F2I.S64.F64.TRUNC"]
    assert wrong(["DADD", "DADD", "DSETP.GEU.AND", *conversions]) == ""


def test_a_float_kernel_may_multiply_once_in_double():
    assert wrong(["DMUL", "DADD"]) == ""
    assert wrong(["DMUL", "DMUL"]).startswith("double precision in a float kernel: 2 DMUL")


def test_a_float_kernel_may_compare_in_double_only_for_its_conversions():
    assert wrong(["DSETP.GEU.AND"] * 32) == ""
    assert wrong(["DSETP.GT.AND"] * 33).startswith("double precision in a float kernel: 33 DSETP")
    assert wrong(["DSETP.GEU.AND", "F2F.F32.F64"] * 40) == ""


@pytest.mark.parametrize("opcode", ["DFMA", "DMNMX", "MUFU.RCP64H"])
def test_a_float_kernel_may_do_nothing_else_in_double(opcode):
    assert wrong([opcode]).startswith(f"double precision in a float kernel: 1 {opcode}")
    assert wrong([opcode], computes_in="double") == ""


# -- what is compiled, and the report ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "registers", "block", "shared", "threads"),
    [
        (90, 32, 256, 0, 2048),
        (90, 33, 256, 0, 1536),  # 40 each
        (90, 255, 256, 0, 256),
        (90, 32, 32, 0, 1024),  # 32 blocks
        (90, 32, 256, 100 * 1024, 512),
        (75, 32, 256, 0, 1024),
        (86, 32, 256, 0, 1536),
        (86, 32, 256, 99 * 1024, 256),
        (120, 32, 1024, 0, 1024),
        (90, 80, 1024, 0, 0),
    ],
)
def test_resident_threads(number, registers, block, shared, threads):
    architecture = gpu_gate.ARCHITECTURES[number]
    assert gpu_gate.resident_threads(architecture, registers, block, shared) == threads


def test_kernels_that_must_not_spill_are_compiled_for_the_reference():
    kernels = [Kernel(text=f"text {number}") for number in range(20)]
    assert all([job.architecture for job in gpu_gate.jobs_of(one, None)] == [gpu_gate.REFERENCE] for one in kernels)


@pytest.mark.parametrize("what", [{"alone": True}, {"hot": False}], ids=["the only one", "may spill"])
def test_the_only_kernel_of_a_formula_and_those_that_may_spill_are_compiled_for_any_architecture(what):
    kernels = [Kernel(text=f"text {number}", **what) for number in range(200)]
    chosen = [[job.architecture for job in gpu_gate.jobs_of(kernel, None)] for kernel in kernels]
    assert all(len(numbers) == 1 for numbers in chosen)
    assert {number for numbers in chosen for number in numbers} == set(gpu_gate.ARCHITECTURES)
    assert [job.architecture for job in gpu_gate.jobs_of(kernels[0], [75, 90])] == [75, 90]


def test_equal_texts_are_compiled_once():
    first, second = (gpu_gate.jobs_of(Kernel(label=label), [75, 90]) for label in "ab")
    assert [job.architecture for job in first] == [75, 90]
    assert len({*first, *second}) == 2
    assert set(first).isdisjoint(gpu_gate.jobs_of(Kernel(text="another"), [75, 90]))


def test_options_of_the_library_reach_the_compiler():
    class WithOptions(Kernel):
        options = ("--fmad=false",)

    (job,) = gpu_gate.jobs_of(WithOptions(), [90])
    assert job.options == ("--fmad=false",)
    assert job not in gpu_gate.jobs_of(Kernel(), [90])


def test_findings_name_the_architectures():
    spilling = gpu_gate.Result(replace(FINE, spill=8), Code(Counter()), 0.1)
    fine = gpu_gate.Result(FINE, Code(Counter()), 0.1)
    lines = gpu_gate.kernel_findings(Kernel(), {75: spilling, 80: fine, 90: spilling})
    assert lines == ["elementwise huber float32 [sm_75 sm_90]: spills: 8 bytes stored and loaded per thread"]


def test_report(tmp_path):
    result = gpu_gate.Result(read_log(LOG), read_code(DISASSEMBLY), 0.1)
    row = gpu_gate.row_of(Kernel(dynamic_shared=1024), 90, result)
    gpu_gate.write_report(tmp_path / "report", [row], ["something"], "1 of 6")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    line = "| elementwise huber float32 | 90 | 256 | 32 | 0 | 65 + 1024 | 2048 | 10 | 2/2 | 1/1 | 0 | 0 | 0 | 0 | 1 |"
    assert line in text.splitlines()
    assert "- something" in text.splitlines()
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert report == {"summary": "1 of 6", "findings": ["something"], "rows": [row]}
