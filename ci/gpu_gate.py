#!/usr/bin/env python3
"""Compile every CUDA kernel, with no GPU and no driver, and check the machine code.

`python3 ci/dev.py gpu-gate` installs NVIDIA's compiler (ci/gpu.txt) and runs this. By default every kernel of the
losses that stand for all and one kernel of each other formula is compiled for one architecture: for sm_90 those of
the former that must not spill, else for one that a hash chooses. `--only` takes every kernel with a text in its
label, `--all` every kernel, for every architecture. The findings come last, one a line; any makes the exit status 1.
The table of registers, spills, shared memory and instructions is written as report.json and report.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import dev
import gpu_compiler
from gpu_compiler import Code, Log

KIB = 1024
REFERENCE = 90  # the architecture that every kernel is compiled for


class Kernel(Protocol):
    """What `fastloss.gpu.catalogue.kernels` yields.

    `options`, a tuple, if the library gives CuPy any; `alone`, if it is the only kernel of its formula.
    """

    label: str
    text: str  # CUDA source with one `extern "C" __global__` kernel
    name: str  # of that kernel
    block: int  # threads per block
    dynamic_shared: int  # bytes at most
    vectorized: bool  # must load and store 128 bits at a time
    computes_in: str  # "float" or "double"
    hot: bool  # must not spill


# ------------------------------------------------------------------------------------------ architectures


@dataclass(frozen=True)
class Architecture:
    """What one multiprocessor has; the numbers of the CUDA C++ Programming Guide, "Compute Capabilities"."""

    threads: int
    blocks: int
    shared: int  # bytes
    shared_per_block: int  # bytes, static and dynamic together
    shared_reserved: int = KIB  # bytes of every block that the driver keeps
    shared_unit: int = 128  # bytes; a block gets a multiple of it


ARCHITECTURES = {
    75: Architecture(1024, 16, 64 * KIB, 64 * KIB, shared_reserved=0, shared_unit=256),
    80: Architecture(2048, 32, 164 * KIB, 163 * KIB),
    86: Architecture(1536, 16, 100 * KIB, 99 * KIB),
    90: Architecture(2048, 32, 228 * KIB, 227 * KIB),
    100: Architecture(2048, 32, 228 * KIB, 227 * KIB),
    120: Architecture(1536, 24, 100 * KIB, 99 * KIB),
}
REGISTERS = 65536  # of a multiprocessor, and at most of a block
STATIC_SHARED = 48 * KIB  # more must be dynamic, and asked for
LARGEST_BLOCK = 1024
WARP, PARTITIONS, REGISTER_UNIT = 32, 4, 256


def registers_of_warp(registers: int) -> int:
    return round_up(registers * WARP, REGISTER_UNIT)


def registers_of_block(registers: int, block: int) -> int:
    """What a launch is refused for: as if every partition of the multiprocessor got equally many warps."""
    return registers_of_warp(registers) * round_up(warps_of(block), PARTITIONS)


def resident_threads(architecture: Architecture, registers: int, block: int, shared: int) -> int:
    """How many threads of this kernel a multiprocessor holds at once; cuda_occupancy.h, retold."""
    warps = warps_of(block)
    warps_by_registers = REGISTERS // PARTITIONS // registers_of_warp(max(registers, 1)) * PARTITIONS
    by_registers = warps_by_registers // warps if registers_of_block(registers, block) <= REGISTERS else 0
    taken = round_up(shared + architecture.shared_reserved, architecture.shared_unit)
    by_shared = architecture.shared // taken if taken else architecture.blocks
    by_threads = architecture.threads // (warps * WARP)
    return min(architecture.blocks, by_registers, by_shared, by_threads) * block


def warps_of(block: int) -> int:
    return -(-block // WARP)


def round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


# ----------------------------------------------------------------------------------------------- verdict


def count(opcodes: Counter[str], pattern: str) -> int:
    """Instructions whose opcode, with modifiers, begins like the pattern."""
    match = re.compile(pattern).match
    return sum(number for opcode, number in opcodes.items() if match(opcode))


ATOMIC = r"(?:RED|REDG|ATOM|ATOMG|ATOMS|UBLKRED|UTMAREDG)\."
INSTRUCTIONS = {
    "load128": r"LDG\.(?:\w+\.)*(?:128|256)\b",
    "load": r"LDG\b",
    "store128": r"STG\.(?:\w+\.)*(?:128|256)\b",
    "store": r"STG\b",
    "local": r"(?:LDL|STL)\b",
    "shuffle": r"SHFL\b",
    "barrier": r"BAR\b",
    "special": r"MUFU\b",
    "call": r"CALL\b",
    "double": r"D(?:ADD|MUL|FMA|SETP|MNMX|MMA)\b|MUFU\.\w+64",
    "convert_double": r"(?:F2F|F2I|I2F|FRND)\.(?:\w+\.)*F64\b",
    "float_atomic": ATOMIC + r"(?:\w+\.)*(?:B?F16|F32|F64)",
    "swap_atomic": ATOMIC + r"(?:\w+\.)*CAS",  # CAS, and CAST.SPIN of shared memory
}


def instruction_counts(opcodes: Counter[str]) -> dict[str, int]:
    all_but_padding = opcodes.total() - opcodes["NOP"]
    return {"all": all_but_padding} | {name: count(opcodes, pattern) for name, pattern in INSTRUCTIONS.items()}


def findings(kernel: Kernel, number: int, log: Log, code: Code) -> list[str]:
    """What is wrong with the kernel on this architecture."""
    if log.complaints:
        return list(log.complaints)
    if log.entries != (kernel.name,):
        return [f"the text has the kernels {', '.join(log.entries) or '(none)'}, not just {kernel.name}"]
    wrong = [*block_findings(kernel, log, code), *memory_findings(kernel, ARCHITECTURES[number], log)]
    wrong += atomic_findings(code.opcodes)
    if kernel.vectorized:
        wrong += vector_findings(code.opcodes)
    if kernel.computes_in == "float":
        wrong += double_findings(code.opcodes)
    return wrong


def block_findings(kernel: Kernel, log: Log, code: Code) -> Iterator[str]:
    """What a launch would be refused for."""
    if kernel.block > (largest := code.launch_bound or LARGEST_BLOCK):
        yield f"a block of {kernel.block} threads, at most {largest} allowed"
    if (registers := registers_of_block(log.registers, kernel.block)) > REGISTERS:
        yield f"{log.registers} registers x {kernel.block} threads take {registers} of {REGISTERS} registers"


def memory_findings(kernel: Kernel, architecture: Architecture, log: Log) -> Iterator[str]:
    if kernel.hot and log.spill:
        yield f"spills: {log.spill} bytes stored and loaded per thread"
    if kernel.hot and log.stack:
        yield f"a stack frame of {log.stack} bytes per thread"
    if log.shared > STATIC_SHARED:
        yield f"{log.shared} bytes of static shared memory, at most {STATIC_SHARED} allowed"
    if (shared := log.shared + kernel.dynamic_shared) > architecture.shared_per_block:
        yield f"{shared} bytes of shared memory, at most {architecture.shared_per_block} allowed"


def atomic_findings(opcodes: Counter[str]) -> Iterator[str]:
    """Sums whose order changes from run to run have other bits in each run."""
    if number := count(opcodes, INSTRUCTIONS["float_atomic"]):
        yield f"{number} floating-point atomics"
    if number := count(opcodes, INSTRUCTIONS["swap_atomic"]):
        yield f"{number} compare-and-swap atomics; on shared memory, floating-point atomics become these"


def vector_findings(opcodes: Counter[str]) -> Iterator[str]:
    if not count(opcodes, INSTRUCTIONS["load128"]):
        yield "no 128-bit load from global memory"
    if not count(opcodes, INSTRUCTIONS["store128"]):
        yield "no 128-bit store to global memory"


REPEATED_COMPARISONS = 32


def double_findings(opcodes: Counter[str]) -> Iterator[str]:
    """A float kernel may add in double, and convert; much else is a forgotten `f` or a dear function.

    One product is free: that of the whole sum and 1 / Z.
    """
    double = {opcode: number for opcode, number in opcodes.items() if re.match(INSTRUCTIONS["double"], opcode)}
    surplus = {opcode: number for opcode, number in double.items() if not re.match(r"DADD\b|DSETP", opcode)}
    if surplus.get("DMUL", 0) == 1:
        del surplus["DMUL"]
    # With -ftz=true a conversion to float comes with a comparison, which asks whether the result is subnormal; for
    # sm_100 and later the compiler repeats it rather than keep the answer.
    compares = count(opcodes, "DSETP") - count(opcodes, r"F2F\.(?:\w+\.)*F32\.F64")
    if compares > REPEATED_COMPARISONS:
        surplus["DSETP"] = compares
    if surplus:
        listed = ", ".join(f"{number} {opcode}" for opcode, number in sorted(surplus.items()))
        yield f"double precision in a float kernel: {listed}"


# --------------------------------------------------------------------------------------------- compiling


@dataclass(frozen=True)
class Job:
    """One text for one architecture; kernels with the same text and options share it."""

    text: str
    options: tuple[str, ...]
    architecture: int
    label: str = field(default="", compare=False)  # of the first kernel that has the text


@dataclass(frozen=True)
class Result:
    log: Log
    code: Code
    compile_seconds: float


def compile_job(job: Job) -> Result:
    """In a worker process."""
    compiler = gpu_compiler.Nvrtc()  # loaded once per process; a second call only finds it again
    started = time.perf_counter()
    code, log = compiler.compile(job.text, job.architecture, job.options)
    seconds = time.perf_counter() - started
    disassembly = gpu_compiler.disassemble(code, compiler.folder) if code else ""
    return Result(gpu_compiler.read_log(log), gpu_compiler.read_code(disassembly), seconds)


def architectures_for(text: str, chosen: list[int] | None, hot: bool) -> list[int]:
    """The given ones; else one: the reference if it must not spill, else one of all, the same while the text is."""
    if chosen:
        return chosen
    digest = hashlib.sha256(text.encode()).digest()
    return [REFERENCE if hot else list(ARCHITECTURES)[int.from_bytes(digest[:8]) % len(ARCHITECTURES)]]


def jobs_of(kernel: Kernel, chosen: list[int] | None) -> list[Job]:
    """Equal for kernels with equal texts and options."""
    options = tuple(getattr(kernel, "options", ()))
    numbers = architectures_for(kernel.text, chosen, kernel.hot and not getattr(kernel, "alone", False))
    return [Job(kernel.text, options, number, kernel.label) for number in numbers]


def compile_all(jobs: list[Job], processes: int) -> tuple[dict[Job, Result], list[str]]:
    """The results, and lines about the jobs that have none."""
    # spawn: a forked child would inherit locks of the threads that importing the library may have started
    context = multiprocessing.get_context("spawn")
    results: dict[Job, Result] = {}
    failures: list[str] = []
    lost: list[str] = []
    pool = ProcessPoolExecutor(processes, context)
    try:
        waiting = {pool.submit(compile_job, job): job for job in jobs}
        for future in with_progress(waiting):
            job = waiting[future]
            try:
                results[job] = future.result()
            except BrokenProcessPool:
                lost.append(f"{job.label} [sm_{job.architecture}]")
            except Exception as error:  # noqa: BLE001 (a line in the report, whatever it is)
                failures.append(f"{job.label} [sm_{job.architecture}]: {type(error).__name__}: {error}")
    finally:
        pool.shutdown(cancel_futures=True)  # unlike `with`, which finishes the queue after an interrupt
    if lost:
        failures.append(f"a compiler process died; {len(lost)} compilations are missing, the first of them {lost[0]}")
    return results, failures


def with_progress(waiting: dict[Future[Result], Job]) -> Iterator[Future[Result]]:
    """The futures as they finish; on a terminal one changing line, else a line every few seconds."""
    terminal = sys.stderr.isatty()
    started = shown = time.monotonic()
    for done, future in enumerate(as_completed(waiting), start=1):
        now = time.monotonic()
        if terminal or now - shown >= 10 or done == len(waiting):
            job = waiting[future]
            line = f"{done}/{len(waiting)} compiled, sm_{job.architecture} {job.label}"
            dev.show_progress(now - started, line, terminal)
            shown = now
        yield future
    if terminal:
        print(file=sys.stderr)


# ------------------------------------------------------------------------------------------------ report


def row_of(kernel: Kernel, number: int, result: Result) -> dict:
    """One line of the table."""
    log = result.log
    shared = log.shared + kernel.dynamic_shared
    return {
        "kernel": kernel.label,
        "architecture": number,
        "block": kernel.block,
        "registers": log.registers,
        "stack": log.stack,
        "spill": log.spill,
        "static_shared": log.shared,
        "dynamic_shared": kernel.dynamic_shared,
        "resident_threads": resident_threads(ARCHITECTURES[number], log.registers, kernel.block, shared),
        "instructions": instruction_counts(result.code.opcodes),
        "compile_seconds": round(result.compile_seconds, 3),
    }


COLUMNS = ("kernel", "sm", "block", "registers", "spill", "shared", "resident", "instructions", "LDG.128/LDG")
COLUMNS += ("STG.128/STG", "shuffle", "barrier", "MUFU", "double", "call")


def markdown(rows: list[dict], wrong: list[str], summary: str) -> str:
    """The table for people."""
    lines = ["# GPU gate", "", summary, ""]
    lines += [f"- {line}" for line in wrong] or ["No findings."]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in cells_of(row)) + " |" for row in rows]
    lines += [
        "",
        "spill: bytes stored and loaded per thread; shared: bytes per block, static + dynamic; resident: threads",
    ]
    lines += ["that one multiprocessor holds at once; double: double-precision instructions other than conversions."]
    return "\n".join(lines) + "\n"


def cells_of(row: dict) -> list:
    counts = row["instructions"]
    return [
        row["kernel"],
        row["architecture"],
        row["block"],
        row["registers"],
        row["spill"],
        f"{row['static_shared']} + {row['dynamic_shared']}",
        row["resident_threads"],
        counts["all"],
        f"{counts['load128']}/{counts['load']}",
        f"{counts['store128']}/{counts['store']}",
        *(counts[name] for name in ("shuffle", "barrier", "special", "double", "call")),
    ]


# --------------------------------------------------------------------------------------------------- main


def main(arguments: list[str]) -> int:
    chosen = read_arguments(arguments)
    from fastloss.families.representatives import THOROUGH, representatives
    from fastloss.gpu.catalogue import kernels
    from fastloss.losses import registry

    catalogue = list(kernels(registry()))
    labels = {name: labels for name, labels in representatives(registry()).items() if name in THOROUGH}
    wanted = catalogue if chosen.all or chosen.only else list(kernels(registry(), labels))
    selected = [kernel for kernel in wanted if chosen.only in kernel.label]
    if not selected:
        dev.fail(f"no kernel has {chosen.only!r} in its label" if catalogue else "the catalogue has no kernels")
    if chosen.list:
        print_list(selected)
        return 0
    return run(selected, len(catalogue), chosen)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu-gate", description=__doc__.partition("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="every kernel for every architecture")
    which.add_argument("--arch", type=int, nargs="+", choices=ARCHITECTURES, metavar="N", help="only for these")
    parser.add_argument("--only", default="", metavar="TEXT", help="only kernels with this text in their label")
    parser.add_argument("--jobs", type=int, default=dev.cpu_count(), metavar="N", help="processes (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("gpu-gate"), metavar="DIR", help="folder (%(default)s)")
    parser.add_argument("--list", action="store_true", help="list the kernels and compile none")
    return parser.parse_args(arguments)


def print_list(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        marks = [word for word in ("vectorized", "hot") if getattr(kernel, word)]
        others = [f"sm_{job.architecture}" for job in jobs_of(kernel, None)]
        print(f"{kernel.label}: {kernel.name}, {kernel.block} threads, {', '.join([*marks, *others])}")
    print(f"{len(kernels)} kernels, {len({kernel.text for kernel in kernels})} different texts")


def run(kernels: list[Kernel], known: int, chosen: argparse.Namespace) -> int:
    """Compile, judge, write the report. 1 if something is wrong, else 0."""
    try:
        compiler = gpu_compiler.Nvrtc()
    except FileNotFoundError as error:
        dev.fail(str(error))
    dev.say(f"NVRTC {compiler.version()}, {len(kernels)} of {known} kernels, {chosen.jobs} processes")
    architectures = list(ARCHITECTURES) if chosen.all else chosen.arch
    jobs = dict.fromkeys(job for kernel in kernels for job in jobs_of(kernel, architectures))
    if unknown := {job.architecture for job in jobs} - set(compiler.architectures()):
        dev.fail(f"NVRTC {compiler.version()} does not compile for sm_{min(unknown)}")

    started = time.monotonic()
    results, wrong = compile_all(list(jobs), chosen.jobs)
    rows = []
    for kernel in kernels:
        done = {job.architecture: results[job] for job in jobs_of(kernel, architectures) if job in results}
        rows += [row_of(kernel, number, result) for number, result in done.items()]
        wrong += kernel_findings(kernel, done)

    possible = len(kernels) * len(ARCHITECTURES)
    median = statistics.median([result.compile_seconds for result in results.values()] or [0.0])
    summary = (
        f"{len(rows)} of {possible} pairs of kernel and architecture checked by {len(results)} compilations "
        f"({median:.2f} s each, median) in {time.monotonic() - started:.0f} s with NVRTC {compiler.version()}"
    )
    write_report(chosen.output, rows, wrong, summary)
    dev.say(summary + ("; --all checks the rest" if len(rows) < possible else ""))
    dev.say(f"table: {chosen.output / 'report.md'}")
    for line in wrong:
        print(line, flush=True)
    dev.say(f"{len(wrong)} findings" if wrong else "no findings")
    return 1 if wrong else 0


def kernel_findings(kernel: Kernel, results: dict[int, Result]) -> list[str]:
    """A line for each finding, with the architectures that have it."""
    where: dict[str, list[str]] = {}
    for number, result in results.items():
        for line in findings(kernel, number, result.log, result.code):
            where.setdefault(line, []).append(f"sm_{number}")
    return [f"{kernel.label} [{' '.join(numbers)}]: {line}" for line, numbers in where.items()]


def write_report(folder: Path, rows: list[dict], wrong: list[str], summary: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    report = {"summary": summary, "findings": wrong, "rows": rows}
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (folder / "report.md").write_text(markdown(rows, wrong, summary), encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        dev.say("interrupted")
        sys.exit(130)
