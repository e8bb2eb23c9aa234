"""Makes `herd_mcp/builtin/herd-tiny-image`: FLUX.2-klein's architecture in small sizes, trained on pictures that code
draws. `python -m training image` runs it; `train.py` says in which order."""
