"""From the name in a request to a model on this disk. Pure: the list of models comes in, one or an error comes out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from herd_mcp.jobs import SHOWN_CHARS, ErrorCode, HerdError, Kind
from herd_mcp.node.image_families import all_families, find_family
from herd_mcp.state import ModelInfo, by_default, by_name, means


def choose(models: Sequence[ModelInfo], kind: Kind, name: str | None, preferred: str | None) -> ModelInfo:
    """The model that serves a request.

    `name` is what the request says, `preferred` the owner's setting for requests that say nothing. Raises HerdError:
    model_not_found with the nearest names, kind_not_supported, model_incomplete.
    """
    if name is None:
        return _named(models, kind, preferred) if preferred else default(models, kind)
    return _named(models, kind, name)


def default(models: Sequence[ModelInfo], kind: Kind) -> ModelInfo:
    """A loaded model before others, real ones before built-in ones, then the largest."""
    able = [model for model in models if model.kind == kind and model.usable]
    if not able:
        raise HerdError(ErrorCode.MODEL_NOT_FOUND, f"There is no {kind} model on this Mac.", _how_to_get(None))
    return max(able, key=by_default)


def recommend(models: Sequence[ModelInfo], budget_bytes: int) -> set[str]:
    """Of each kind the name of the largest model that can be used and fits this Mac, real ones before built-in ones."""
    best: dict[Kind, ModelInfo] = {}
    for model in sorted(models, key=lambda model: (not model.builtin, model.needs_bytes)):
        if model.usable and model.needs_bytes <= budget_bytes:
            best[model.kind] = model
    return {model.name for model in best.values()}


def find(models: Sequence[ModelInfo], name: str, where: str = "on this Mac") -> ModelInfo:
    """The model of whatever kind that `name` means, usable or not. Raises HerdError(model_not_found)."""
    matches = [model for model in models if means(model, name)]
    if not matches and (family := find_family(name)):
        matches = [model for model in models if model.kind == "image" and model.family == family.key]
    if not matches:
        raise not_found(models, None, name, where)
    return max(matches, key=lambda model: (model.name.lower() == name.lower(), model.usable, model.loaded, model.bytes))


def _named(models: Sequence[ModelInfo], kind: Kind, name: str) -> ModelInfo:
    matches = [model for model in models if means(model, name)]
    if not matches and kind == "image" and (family := find_family(name)):
        matches = [model for model in models if model.kind == "image" and model.family == family.key]
    right = [model for model in matches if model.kind == kind]
    if matches and not right:
        raise HerdError(
            ErrorCode.KIND_NOT_SUPPORTED,
            f"{matches[0].name} serves {matches[0].kind} and not {kind} requests.",
            f"`herd-mcp models` lists the {kind} models of this Mac.",
            details={"kind": matches[0].kind},
        )
    if not right:
        raise not_found(models, kind, name)
    usable = [model for model in right if model.usable]
    if not usable:
        raise not_usable(right[0])
    return max(usable, key=lambda model: by_name(model, name))


def not_usable(model: ModelInfo) -> HerdError:
    """Why a model that is here cannot be taken."""
    if not model.complete:
        return HerdError(
            ErrorCode.MODEL_INCOMPLETE,
            f"{model.name} is on this Mac but not whole: {model.problem}.",
            f"Download it again: `{download_command(model.name)}`.",
        )
    return HerdError(
        ErrorCode.KIND_NOT_SUPPORTED,
        f"{model.name} cannot be used here: {model.problem}.",
        "`herd-mcp models` lists the others.",
    )


def names_of(model: ModelInfo, names: Iterable[str]) -> list[str]:
    """Those of the names that mean the model, its own before its aliases."""
    return sorted((name for name in names if means(model, name)), key=lambda name: name.lower() != model.name.lower())


def not_found(models: Sequence[ModelInfo], kind: Kind | None, name: str, where: str = "on this Mac") -> HerdError:
    """No such model among `models`; the names that are nearest."""
    here = {
        known.lower(): model.name
        for model in models
        if kind in (None, model.kind)
        for known in (model.name, *model.aliases)
    }
    close = difflib.get_close_matches(name.lower(), here, n=3, cutoff=0.4)
    nearest = list(dict.fromkeys(here[match] for match in close))
    family = find_family(name) if kind != "chat" else None
    message = f"There is no {f'{kind} ' if kind else ''}model {name[:SHOWN_CHARS]!r} {where}."
    hint = f"Did you mean {' or '.join(nearest)}? " if nearest and family is None else ""
    return HerdError(
        ErrorCode.MODEL_NOT_FOUND,
        message,
        hint + _how_to_get(family.repo if family else None),
        details={"nearest": nearest, "known_to_mflux": _near_families(name) if kind != "chat" else []},
    )


def _near_families(name: str) -> list[str]:
    names = [known for family in all_families() for known in (family.key, *family.aliases)]
    return difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)


def _how_to_get(repo: str | None) -> str:
    if repo:
        return f"The owner of this Mac can get it with `{download_command(repo)}`; it is then found by itself."
    return f"`herd-mcp models` lists what is here; its owner can get others: `{download_command('REPOSITORY')}`."


def download_command(repo: str) -> str:
    """What a person runs to get a model; works wherever uv is."""
    return f"uvx --from huggingface_hub hf download {repo}"
