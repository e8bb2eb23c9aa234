"""Settings are found where the person put them, each one does something, and the reference tells the truth."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import herd_mcp
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.settings import ModelSettings, Settings, home, load_settings, reference

PACKAGE = Path(herd_mcp.__file__).parent
DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"HERD_{name.upper()}", raising=False)
    monkeypatch.delenv("MLX_MODEL_DIR", raising=False)
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    return tmp_path


def settings_read_in(source: str) -> set[str]:
    """Attributes taken of anything that is called `settings`, as in `settings.port` and `self._settings.port`."""
    read = set()
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Attribute):
            owner = part.value
            name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            if name.lstrip("_") == "settings":
                read.add(part.attr)
    return read


def test_every_setting_is_read_somewhere() -> None:
    read: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "settings.py":
            read |= settings_read_in(path.read_text())
    assert set(Settings.model_fields) - read == set()


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_home_is_the_variable_or_a_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert home() == tmp_path
    monkeypatch.delenv("HERD_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    assert home() == tmp_path / "somebody" / ".herd"


def test_without_a_file_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings.port == 11435
    assert settings.wait_s == 45
    assert settings.node_name


def test_the_file_is_read(empty_home: Path) -> None:
    (empty_home / "config.toml").write_text(
        'node_name = "studio"\nport = 0\nmodel_dirs = ["/models", "/more models"]\n'
    )
    settings = load_settings()
    assert settings.node_name == "studio"
    assert settings.port == 0
    assert settings.model_dirs == (Path("/models"), Path("/more models"))


def test_a_variable_wins_over_the_file_and_an_argument_over_both(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_home / "config.toml").write_text("port = 4000\nwait_s = 10\n")
    monkeypatch.setenv("HERD_PORT", "5000")
    assert load_settings().port == 5000
    assert load_settings().wait_s == 10
    assert load_settings(port=0).port == 0


def test_folders_in_a_variable_are_separated_by_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_MODEL_DIRS", "/models:/more models")
    assert load_settings().model_dirs == (Path("/models"), Path("/more models"))


def test_the_variable_of_other_mlx_programs_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_MODEL_DIR", "/models")
    assert load_settings().model_dirs == (Path("/models"),)
    monkeypatch.setenv("HERD_MODEL_DIRS", "/ours")
    assert load_settings().model_dirs == (Path("/ours"),)


def test_names_in_a_variable_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_PRELOAD", "org/one, two")
    assert load_settings().preload == ("org/one", "two")


def test_a_model_has_settings_of_its_own_under_its_name(empty_home: Path) -> None:
    (empty_home / "config.toml").write_text('preload = ["a"]\n[models."org/one"]\npinned = true\nbatch = 2\n')
    settings = load_settings()
    assert (settings.preload, settings.models) == (("a",), {"org/one": ModelSettings(pinned=True, batch=2)})


@pytest.mark.parametrize("variable", ["HERD_MODEL_DIRS", "MLX_MODEL_DIR"])
def test_folders_in_a_variable_win_over_folders_in_the_file(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (empty_home / "config.toml").write_text('model_dirs = ["/from the file"]\n')
    monkeypatch.setenv(variable, "/from the variable")
    assert load_settings().model_dirs == (Path("/from the variable"),)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 4000\n", "prot"),
        ("port = 99999\n", "port"),
        ('port = "many"\n', "port"),
        ('node_name = "../../etc"\n', "node_name"),
        ('confirm = "never"\n', "confirm"),
        ("port = \n", "config.toml"),
        ('[models."org/one"]\npined = true\n', "models.org/one.pined"),
        ("[pressure_max_tokens]\nhigh = 0\n", "pressure_max_tokens.high"),
        ('node_name = "\xff"\n', "config.toml"),
    ],
)
def test_a_wrong_file_is_refused_with_the_name_of_what_is_wrong(empty_home: Path, text: str, named: str) -> None:
    (empty_home / "config.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(HerdError) as refused:
        load_settings()
    assert refused.value.info.code == ErrorCode.INVALID_REQUEST
    assert named in str(refused.value)
    assert str(empty_home / "config.toml") in refused.value.info.hint


def test_a_wrong_variable_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_WAIT_S", "soon")
    with pytest.raises(HerdError, match="wait_s"):
        load_settings()


def test_the_reference_in_the_docs_is_up_to_date() -> None:
    assert (DOCS / "settings.md").read_text() == reference(), (
        "run `uv run python -m herd_mcp.settings > docs/settings.md`"
    )


@pytest.mark.parametrize(
    "name", ["memory_budget_bytes", "memory_floor_bytes", "wired_limit_bytes", "prompt_cache_bytes"]
)
def test_more_bytes_than_any_machine_has_are_refused(name: str) -> None:
    load_settings(**{name: 2**60})
    with pytest.raises(HerdError, match=name):
        load_settings(**{name: 2**63})
