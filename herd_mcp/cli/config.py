"""`config`: every setting, its value and where that comes from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from herd_mcp.cli.console import print_json, print_table, say

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic.fields import FieldInfo


def add_to(app: typer.Typer) -> None:
    app.command()(config)


def config(
    path: Annotated[bool, typer.Option("--path", help="Print only where config.toml lies.")] = False,
    defaults: Annotated[bool, typer.Option("--defaults", help="Show what holds when nothing is set.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
) -> None:
    """Show every setting with its value and where it comes from.

    Settings are lines of config.toml in HERD_HOME, or HERD_* variables, which win. A running node keeps the settings
    it was started with.

    \b
    Example:
      herd-mcp config
      echo 'idle_unload_s = 60' >> "$(herd-mcp config --path)"
    """
    from herd_mcp.cli.run_dir import make_private
    from herd_mcp.settings import Settings, home, load_settings

    file = home() / "config.toml"
    if path:
        make_private(file.parent)  # so that the file can be written
        typer.echo(str(file))
        return
    settings = None if defaults else load_settings()
    in_file = set() if defaults else _names_in(file)
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        value = default if settings is None else getattr(settings, name)
        rows.append(
            {
                "name": name,
                "value": _plain(value),
                "source": "default" if settings is None else _source(name, field, in_file),
                "default": _plain(default),
                "description": field.description or "",
            }
        )
    if as_json:
        print_json({"path": str(file), "exists": file.exists(), "settings": rows})
        return
    print_table(("setting", "value", "from"), [(row["name"], _shown(row["value"]), row["source"]) for row in rows])
    say(f"{file}{'' if file.exists() else ' (not there yet)'}; docs/settings.md says what each one means.")


def _names_in(file: Path) -> set[str]:
    import tomllib

    try:
        return set(tomllib.loads(file.read_text()))
    except FileNotFoundError:
        return set()


def _source(name: str, field: FieldInfo, in_file: set[str]) -> str:
    """The variable that set it, `config.toml`, or `default`."""
    variables = {word.upper(): word for word in os.environ}
    alias = field.validation_alias
    candidates = [str(choice) for choice in getattr(alias, "choices", ())] or [f"HERD_{name}"]
    for candidate in candidates:
        if candidate != name and candidate.upper() in variables:
            return variables[candidate.upper()]
    return "config.toml" if name in in_file else "default"


def _plain(value: Any) -> Any:
    """As JSON has it: folders as text, tuples as lists, what a model has of its own as objects."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if hasattr(value, "model_dump"):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _shown(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {part}" for name, part in value.items())
    return os.pathsep.join(value) if isinstance(value, list) else str(value)
