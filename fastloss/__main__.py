"""Commands: ``python -m fastloss COMMAND``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

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
    """Run one command and give its exit status."""
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
    print(f"fastloss {__version__}\n\nusage: python -m fastloss COMMAND [--help]\n")
    for name, (_, purpose) in COMMANDS.items():
        print(f"  {name:8} {purpose}")
    return 0 if wanted or arguments[0] == "--version" else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
