"""`python -m benchmarks NAME [options]`, `list`, or `all --markdown FILE`."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import benchmarks

HEAD = """\
# Benchmarks

Made by `uv run python -m benchmarks all --markdown docs/benchmarks.md`. Each table compares herd-mcp with what one
would otherwise run, in turn on the same machine; the ratio is that of the medians, and a goal that was missed says NO.
The models are tiny and built by code, so the figures tell what herd-mcp itself costs and not how fast a Mac is.
"""


def names() -> list[str]:
    """Every module of this folder is a benchmark, but for this one."""
    found = pkgutil.iter_modules(benchmarks.__path__)
    return sorted(module.name for module in found if not module.ispkg and module.name != "__main__")


def load(name: str) -> Callable[[list[str]], int]:
    main: Callable[[list[str]], int] = importlib.import_module(f"benchmarks.{name}").main
    return main


def about(name: str) -> str:
    """The first sentence of the module's docstring."""
    return str(importlib.import_module(f"benchmarks.{name}").__doc__).strip().splitlines()[0]


def run_all(argv: list[str]) -> int:
    """Each in a process of its own, so that none leaves threads or memory to the next. 1 when one could not measure."""
    options = argparse.ArgumentParser(prog="python -m benchmarks all")
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables into this file too")
    options.add_argument("--pairs", type=int, metavar="N", help="interleaved runs of each")
    options.add_argument("--only", nargs="+", metavar="NAME", choices=names(), default=names(), help="these alone")
    options.add_argument("options", nargs="*", metavar="-- OPTION", help="what each of them gets besides")
    asked = options.parse_args(argv)
    pairs = [] if asked.pairs is None else ["--pairs", str(asked.pairs)]
    parts, failed = [HEAD], 0
    for name in asked.only:
        sys.stderr.write(f"{name} … ")
        sys.stderr.flush()
        began = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks", name, *pairs, *asked.options],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        sys.stderr.write(f"{time.monotonic() - began:.0f} s\n")
        failed += run.returncode != 0
        part = f"## {name}\n\n{markdown(run.stdout) or 'It could not be measured.'}\n"
        parts.append(part)
        sys.stdout.write(part + "\n")
        sys.stdout.flush()
    if asked.markdown:
        asked.markdown.write_text("\n".join(parts))
    return int(failed > 0)


def markdown(output: str) -> str:
    """What a benchmark printed; in a fence where it is no table of Markdown."""
    output = output.strip()
    return output if not output or "\n| " in f"\n{output}" else f"```\n{output}\n```"


def main(argv: list[str]) -> int:
    name, rest = (argv[0], argv[1:]) if argv else ("list", [])
    if name == "all":
        return run_all(rest)
    if name in names():
        return load(name)(rest)
    sys.stdout.write("".join(f"{name:<10} {about(name)}\n" for name in names()))
    return 0 if name in ("list", "-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
