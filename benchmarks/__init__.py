"""Measurements of herd-mcp against what people would otherwise run: `uv run python -m benchmarks list`.

Every module of this folder is one benchmark with a `main(argv)`; `parts` is what they share, `peers` are the programs
that they compare with. Nothing here is in the wheel, and nothing is downloaded: models are built by code.
"""
