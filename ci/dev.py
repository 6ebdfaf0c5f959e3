#!/usr/bin/env python3
"""Set up and run, in one command, on a machine with only Python 3.11 or newer and pip.

    python3 ci/dev.py demo                          train three models on real data
    python3 ci/dev.py test [--peers] [pytest args]  all tests; --peers adds comparisons with torch, Keras, optax
    python3 ci/dev.py lint                          ruff, mypy, import layers, derived text
    python3 ci/dev.py bench [--peers] [bench args]  speed against NumPy, scikit-learn and, with --peers, torch
    python3 ci/dev.py gpu-gate [gate args]          compile the CUDA kernels, with no GPU, and check the machine code
    python3 ci/dev.py info                          what fastloss sees on this machine

The first run makes .venv and installs into it (with uv where it is found, else with pip) the versions of
ci/constraints.txt; later runs start at once, until pyproject.toml or the pinned versions change.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
CONSTRAINTS = ROOT / "ci" / "constraints.txt"
PEERS = ROOT / "ci" / "peers.txt"
GPU = ROOT / "ci" / "gpu.txt"
STATE = ENVIRONMENT / "fastloss-dev.json"  # what is installed, so that a second run need not ask pip

EXTRA = {"demo": "demo", "test": "test", "lint": "lint", "bench": "bench", "gpu-gate": "", "info": ""}
# what comes beside the extra: an option or a command, its pinned versions, and what they are
ADDITIONS = {"--peers": (PEERS, "torch, Keras and optax"), "gpu-gate": (GPU, "NVIDIA's compiler")}


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (this line is for those who have an older one)
        fail(f"fastloss needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable})")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in EXTRA:
        fail(f"no command {name!r}; choose from {', '.join(EXTRA)}", status=2)
    peers = name in ("test", "bench") and "--peers" in rest
    prepare(EXTRA[name], {"--peers"} if peers else {name} & ADDITIONS.keys())
    if name == "lint":
        return lint()
    environment = dict(os.environ)
    if peers:
        environment.update(FASTLOSS_PEERS="1", KERAS_BACKEND="torch")
    rest = [word for word in rest if not (peers and word == "--peers")]
    return run_in_place([str(python_of(ENVIRONMENT)), *command_line(name, rest)], environment)


def command_line(name: str, rest: list[str]) -> list[str]:
    """What the environment's Python is asked to run."""
    if name == "gpu-gate":
        return [str(ROOT / "ci" / "gpu_gate.py"), *rest]
    if name != "test":
        return ["-m", "fastloss", name, *rest]
    workers = [] if "--pdb" in rest else ["-n", str(cpu_count()), "--dist", "worksteal"]
    return ["-m", "pytest", *workers, *rest]


def lint() -> int:
    """Run every checker, also after one has failed, and say at the end which failed."""
    python = str(python_of(ENVIRONMENT))
    checks = {
        "ruff check": [python, "-m", "ruff", "check", "."],
        "ruff format": [python, "-m", "ruff", "format", "--check", "."],
        "mypy": [python, "-m", "mypy"],
        "lint-imports": [str(python_of(ENVIRONMENT).with_name("lint-imports")), "--no-cache"],
    }
    if (ROOT / "ci" / "sync.py").exists():
        checks["ci/sync.py"] = [python, str(ROOT / "ci" / "sync.py"), "--check"]
    failed = []
    for name, command in checks.items():
        say(name)
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            failed.append(name)
    say(f"lint failed: {', '.join(failed)}" if failed else f"lint passed: {', '.join(checks)}")
    return 1 if failed else 0


# ---------------------------------------------------------------------------------- the environment


def prepare(extra: str, additions: set[str]) -> None:
    """Bring .venv to what `extra` and these ADDITIONS need; do nothing where it is there already."""
    identity = f"{ROOT} Python {sys.version}"  # scripts of a moved or another Python's environment do not run
    state = read_state()
    if state.get("identity") != identity or not python_of(ENVIRONMENT).exists():
        remove_environment(state)
        say(f"making .venv with Python {sys.version.split()[0]}")
        write_state({"identity": "unfinished"})
        create_environment(ENVIRONMENT)
        state = {"identity": identity, "installed": {}}
        write_state(state)
    installed = state["installed"]

    key = digest(ROOT / "pyproject.toml", CONSTRAINTS)
    if installed.get(extra) != key:
        target = f"{ROOT}[{extra}]" if extra else str(ROOT)
        install(ENVIRONMENT, "-e", target, what=f"fastloss[{extra}]" if extra else "fastloss")
        installed[extra] = key
        write_state(state)

    for addition in additions:
        file, what = ADDITIONS[addition]
        key = digest(file, CONSTRAINTS)
        if installed.get(addition) == key:
            continue
        # pip, never uv: uv takes a torch that brings gigabytes of CUDA packages even where pip is
        # configured to find a build for the CPU
        install(ENVIRONMENT, "-r", str(file), what=what, only_pip=True)
        installed[addition] = key
        write_state(state)


def remove_environment(state: dict) -> None:
    if state:
        say("removing .venv: it was made by another Python, in another folder or not to its end")
        shutil.rmtree(ENVIRONMENT)
    elif ENVIRONMENT.exists():
        fail(f"{ENVIRONMENT} exists but was not made by ci/dev.py; remove it and run again")


def create_environment(folder: Path) -> None:
    base = getattr(sys, "_base_executable", sys.executable)
    run_step([base, "-m", "venv", "--without-pip", str(folder)])


def install(folder: Path, *what_to_install: str, what: str, only_pip: bool = False) -> None:
    """Install into the environment in `folder` with uv or pip, by ci/constraints.txt."""
    uv = None if only_pip else shutil.which("uv")
    say(f"installing {what} with {'uv' if uv else 'pip'}; the first time takes a minute or so")
    if not uv:
        ensure_pip(folder)
    command = [uv, "pip", "install", "--python"] if uv else []
    command += [str(python_of(folder))]
    command += [] if uv else ["-m", "pip", "install", "--disable-pip-version-check"]
    seconds = run_step([*command, "-c", str(CONSTRAINTS), *what_to_install])
    say(f"installed {what} in {seconds:.0f} s")


def ensure_pip(folder: Path) -> None:
    python = str(python_of(folder))
    if subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode == 0:
        return
    if importlib.util.find_spec("ensurepip"):
        run_step([python, "-m", "ensurepip", "--default-pip"])
    else:  # Debian's Python without the package python3-venv
        base = getattr(sys, "_base_executable", sys.executable)
        run_step([base, "-m", "pip", "--python", python, "install", "pip"])


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def read_state() -> dict:
    try:
        return json.loads(STATE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:  # cut short while it was written: ours, but of unknown content
        return {"identity": "unfinished"}


def write_state(state: dict) -> None:
    ENVIRONMENT.mkdir(exist_ok=True)
    STATE.write_text(json.dumps(state, indent=2), encoding="utf-8")


# ------------------------------------------------------------------------------- running and telling


def run_step(command: list[str]) -> float:
    """Run a set-up command; show what it is doing; on failure show its last lines and stop. Seconds taken."""
    started = time.monotonic()
    environment = {**os.environ, "PIP_USER": "0", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: deque[str] = deque(maxlen=30)
    reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
    reader.start()
    terminal = sys.stderr.isatty()
    while process.poll() is None:
        try:
            process.wait(timeout=0.5 if terminal else 30)
        except subprocess.TimeoutExpired:
            show_progress(time.monotonic() - started, lines[-1].strip() if lines else "", terminal)
    reader.join()
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if process.returncode != 0:
        sys.stderr.writelines(lines)
        fail(f"this command failed with exit status {process.returncode}: {shlex.join(command)}")
    return time.monotonic() - started


def show_progress(seconds: float, line: str, terminal: bool) -> None:
    if terminal:
        width = shutil.get_terminal_size().columns - 1
        print("\r\x1b[K" + f"  {seconds:3.0f} s  {line}"[:width], end="", file=sys.stderr, flush=True)
    else:
        say(f"  {seconds:3.0f} s  {line}")


def run_in_place(command: list[str], environment: dict[str, str]) -> int:
    """Run the command as if it had been called itself: its signals, its exit status."""
    os.chdir(ROOT)
    if os.name != "nt":
        sys.stdout.flush()
        os.execve(command[0], command, environment)
    return subprocess.call(command, env=environment)


def cpu_count() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def say(message: str) -> None:
    print(f"dev: {message}", file=sys.stderr, flush=True)


def fail(message: str, status: int = 1) -> NoReturn:
    say(f"error: {message}")
    raise SystemExit(status)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
