"""What is said of an exception: that a model did not load, that a request could not be run, that the engine fell."""

from __future__ import annotations

import traceback

from herd_mcp.jobs import ErrorCode, ErrorInfo, HerdError


def of_load(error: Exception, model: str) -> ErrorInfo:
    message = f"The model {model} did not load: {_describe(error)}."
    if out_of_memory(error):
        code, hint = ErrorCode.INSUFFICIENT_MEMORY, "Close other programs, or take a smaller model."
    else:
        code, hint = ErrorCode.INTERNAL, "The engine's log has the whole story."
    return ErrorInfo(code=code, message=message, hint=hint)


def of_request(error: Exception) -> ErrorInfo:
    """Of one run that failed alone. What is no HerdError goes to the log, too."""
    if isinstance(error, HerdError):
        return error.info
    traceback.print_exception(error)
    code = ErrorCode.INSUFFICIENT_MEMORY if out_of_memory(error) else ErrorCode.INTERNAL
    return ErrorInfo(code=code, message=f"The request could not be run: {_describe(error)}.")


def of_crash(error: Exception, *, admitted: bool) -> ErrorInfo:
    """Of one of all the runs of an engine that ends; `admitted`: the engine was working on it."""
    no_memory = out_of_memory(error)
    what = "ran out of memory" if no_memory else "failed"
    return ErrorInfo(
        code=ErrorCode.ENGINE_CRASHED,
        message=f"The engine {what} while it worked: {_describe(error)}.",
        hint="Send it again; the engine is started anew.",
        retryable=True,
        details={"admitted": admitted, "out_of_memory": no_memory},
    )


def out_of_memory(error: BaseException) -> bool:
    """MLX has no type of its own for it. Metal says so of a single buffer, CUDA of everything; on the CPU the process
    is gone before anything could be said."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in ("allocate", "out of memory", "outofmemory"))
    )


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())[:500].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
