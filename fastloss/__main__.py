"""Commands: ``python -m fastloss [--with FILE] COMMAND``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from . import __version__

#: Module that holds each command's ``main(arguments) -> exit status``, and what the command does.
COMMANDS = {
    "demo": ("demo", "train three small models on real data and compare with plain NumPy"),
    "bench": ("bench", "measure speed against NumPy, torch, scikit-learn and the memory limit"),
    "warmup": ("warmup", "compile kernels before they are needed"),
    "cache": ("kernel_cache", "show or clear the compiled kernels kept on disk"),
    "list": ("show.listing", "list every loss: names, parameters, names elsewhere"),
    "show": ("show", "print what a loss is: formula, parameters, domain, curves; or draw it"),
    "info": ("info", "show versions, processor, threads and the kernel cache"),
}


def main(arguments: list[str]) -> int:
    """Run one command and give its exit status; before it, load the losses of a user's file."""
    if arguments[:1] == ["--with"]:
        if len(arguments) < 2 or not Path(arguments[1]).is_file():
            print(f"fastloss: --with needs a Python file; got {' '.join(arguments[1:2]) or 'nothing'}", file=sys.stderr)
            return 2
        load(Path(arguments[1]))
        arguments = arguments[2:]
    if arguments and arguments[0] in COMMANDS:
        command: Callable[[list[str]], int] = import_module(f".{COMMANDS[arguments[0]][0]}", __package__).main
        try:
            return command(arguments[1:])
        except KeyboardInterrupt:
            print("fastloss: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # `| head` has read enough; Python would complain again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
    wanted = not arguments or arguments[0] in ("-h", "--help")
    if not wanted and arguments[0] != "--version":
        print(f"fastloss: unknown command {arguments[0]!r}", file=sys.stderr)
    print(f"fastloss {__version__}\n\nusage: python -m fastloss [--with FILE] COMMAND [--help]\n")
    for name, (_, purpose) in COMMANDS.items():
        print(f"  {name:8} {purpose}")
    print("\n--with FILE takes the losses that a Python file of yours defines, too")
    return 0 if wanted or arguments[0] == "--version" else 2


def load(file: Path) -> ModuleType:
    """Import a Python file by its path: the losses that it defines are in the registry then."""
    specification = spec_from_file_location(file.stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = module_from_spec(specification)
    sys.modules[file.stem] = module
    specification.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
