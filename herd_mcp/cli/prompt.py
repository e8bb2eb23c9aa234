"""A command whose prompt may be mistaken for an option."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

SETTINGS: dict[str, Any] = {"help_option_names": ["--help"]}
"""No `-h` here: a prompt such as `-hello` would ask for help."""


class PromptCommand(TyperCommand):
    """Says, when an option is unknown, how to write a prompt that begins with a dash."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # the class of it is private to typer
            option = getattr(error, "option_name", None)
            if option is not None and isinstance(getattr(error, "message", None), str):
                prompt = next((word for word in words if word.startswith(option)), option)
                hint = f"\nA prompt that begins with a dash goes after `--`: herd-mcp {self.name} -- {prompt!r}"
                error.message += hint  # type: ignore[attr-defined]
            raise
