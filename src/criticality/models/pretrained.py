"""Converted models of transformers: what ``save_pretrained`` writes says which norms they have, and they come back with them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from criticality.arguments import checked
from criticality.errors import CriticalityError, InputsError
from criticality.extras import require
from criticality.models.normalizers import DynamicPointwise

RECORD = "criticality_norms"
"""Attribute of a transformers config: the norms that were put into its model, by name."""


def config_of(model: Any) -> Any:
    """The config that ``save_pretrained`` writes beside a model's weights; ``None`` for models of others."""
    config = getattr(model, "config", None)
    return config if hasattr(config, "to_json_string") and hasattr(model, "save_pretrained") else None


def record_of(config: Any, norms: Iterable[tuple[str, nn.Module]]) -> dict[str, dict[str, Any]]:
    """What a config says of its norms already, and new ones, as plain numbers and words."""
    return {**(getattr(config, RECORD, None) or {}), **{name: _said(norm) for name, norm in norms}}


def restore_norms(model: nn.Module) -> None:
    """Put norms into a model as its configs say, with weights as they are made.

    Raises:
        CriticalityError: a record that is none.
    """
    seen: set[int] = set()
    for part in list(model.modules()):
        config = config_of(part)
        if config is None or id(config) in seen:
            continue
        seen.add(id(config))
        for name, said in (getattr(config, RECORD, None) or {}).items():
            place = _place(part, name)
            if place is not None:
                parent, _, last = place.rpartition(".")
                setattr(part.get_submodule(parent), last, _made(name, said))


@checked
def load_pretrained(folder: str | os.PathLike[str], kind: Any = None, **settings: Any) -> Any:
    """A converted model of transformers from the folder in which ``save_pretrained`` wrote it, with the norms that it had.

    Args:
        folder: of the checkpoint.
        kind: class of transformers to load it as, automatic ones included [default: the one that was saved].
        settings: passed on to its ``from_pretrained``.

    Raises:
        MissingPackageError: transformers is not installed.
        InputsError: a checkpoint that does not name a class of transformers.
        CriticalityError: no such folder.
    """
    require("transformers")
    import transformers

    if not (Path(folder) / "config.json").is_file():
        raise CriticalityError(
            f"folder={str(folder)!r} must be a folder with a checkpoint of transformers, and is none"
        )
    config = transformers.AutoConfig.from_pretrained(folder)
    if hasattr(kind, "_model_mapping"):
        kind = kind._model_mapping[type(config)]
    names = config.architectures or ["none"]
    kind = kind or getattr(transformers, names[0], None)
    if not isinstance(kind, type):
        raise InputsError(
            f"kind must be given: the checkpoint was saved as {names[0]!r}, which is no class of transformers"
        )

    def initialize(self: Any, *arguments: Any, **named: Any) -> None:
        super(made, self).__init__(*arguments, **named)  # type: ignore[arg-type]
        restore_norms(self)

    made = type(kind.__name__, (kind,), {"__init__": initialize, "__module__": kind.__module__})
    found: Any = made.from_pretrained(folder, **settings)  # type: ignore[attr-defined]
    for model in found if isinstance(found, tuple) else (found,):  # with output_loading_info there are two
        if isinstance(model, nn.Module):
            model.__class__ = kind
    return found


def _said(norm: nn.Module) -> dict[str, Any]:
    if isinstance(norm, DynamicPointwise):
        return {
            "norm": norm.function,
            "width": norm.width,
            "alpha": norm.initial_alpha,
            "affine": norm.weight is not None,
            "channels_first": norm.channels_first,
        }
    if isinstance(norm, nn.Identity):
        return {"norm": "none"}
    assert isinstance(norm, (nn.LayerNorm, nn.RMSNorm))
    return {
        "norm": "ln" if isinstance(norm, nn.LayerNorm) else "rms",
        "width": norm.normalized_shape[0],
        "eps": norm.eps,
        "affine": norm.elementwise_affine,
    }


def _made(name: str, said: Any) -> nn.Module:
    try:
        kind, rest = said["norm"], {key: value for key, value in said.items() if key not in ("norm", "width")}
        if kind == "none":
            return nn.Identity()
        if kind not in ("ln", "rms"):
            return DynamicPointwise(said["width"], kind, **rest)
        affine = {"eps": rest["eps"], "elementwise_affine": rest["affine"]}
        return (nn.LayerNorm if kind == "ln" else nn.RMSNorm)(said["width"], **affine)
    except (KeyError, TypeError, AttributeError) as error:
        raise CriticalityError(f"{RECORD} of norm {name!r} must say what it is, and is {said!r}") from error


def _place(model: Any, name: str) -> str | None:
    """Where a norm is in a model that was saved with another head than it has now, or without."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for place in (name, prefix + name, name.removeprefix(prefix)):
        try:
            model.get_submodule(place)
        except AttributeError:
            continue
        return place
    return None
