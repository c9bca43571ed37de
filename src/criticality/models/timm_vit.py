"""timm's models: built with any norm and any initialization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from criticality.arguments import Depth, Positive, Size, check_fields, meant
from criticality.errors import ArgumentError, InputsError, ModelFailedError, UnknownNameError, raised
from criticality.extras import require
from criticality.models.conversion import check_norm, replace_norms
from criticality.models.images import photographs
from criticality.models.initialization import check_init
from criticality.models.library_model import LibraryModel
from criticality.models.sites import alphas_by_flow, on_heads_by_flow
from criticality.moved import renamed_fields

timm = require("timm")


@renamed_fields(describe="read(seed)")
@dataclass(frozen=True)
class ViTSpec(LibraryModel):
    """A timm model by name, with what is changed of it; ``None`` keeps the model's own value.

    Attributes:
        name: as timm knows it, without ``timm:``.
        norm: ``ln``, ``rms``, ``none``, ``dyt``, ``derf`` or any built-in function, in place of every norm of the stream.
        alpha: of a pointwise norm, or by pattern as for ``replace_norms``, ``attention``, ``mlp`` and ``final`` among them.
        depth, width, heads: blocks, channels, and attention heads (default: 64 channels each, when the width is
            changed).
        image_size: pixels.
        init: ``own`` or ``fan-in``, of the weights of all branches.
    """

    name: str
    norm: str | None = None
    alpha: Positive | Mapping[str, Positive] | None = None
    depth: Depth | None = None
    width: Size | None = None
    heads: Size | None = None
    image_size: Size | None = None
    init: str = "own"

    def __post_init__(self) -> None:
        check_fields(self)
        if not timm.is_model(self.name):
            near = meant(self.name, timm.list_models())
            raise UnknownNameError(
                f"model 'timm:{self.name}' must be a model of timm {timm.__version__}, and is not{near}"
            )
        if self.width is not None and self.width % self._heads_of_width():
            raise ArgumentError(f"width={self.width!r} must be divisible by heads={self._heads_of_width()}")
        object.__setattr__(self, "alpha", check_norm(self.norm, self.alpha))
        check_init(self.init)

    def _heads_of_width(self) -> int:
        if self.heads is not None:
            return self.heads
        return self.width // 64 if self.width is not None and self.width % 64 == 0 else 1

    def create(self, device: torch.device | str | None = None) -> nn.Module:
        """The torch model at its own initialization, from torch's random state, with the norms asked for.

        Raises:
            ValueError: when timm refuses the changes for the model of that name.
        """
        changes: dict[str, Any] = {"depth": self.depth, "embed_dim": self.width, "img_size": self.image_size}
        if self.width is not None or self.heads is not None:
            changes["num_heads"] = self._heads_of_width()
        given = {key: value for key, value in changes.items() if value is not None}
        try:
            model = timm.create_model(self.name, pretrained=False, device=device, **given)
        except (TypeError, AssertionError, RuntimeError, KeyError, AttributeError, IndexError) as error:
            if not given:
                raise ModelFailedError(
                    f"model 'timm:{self.name}' must be built by timm, which says: {raised(error)}"
                ) from error
            asked = ", ".join(f"{key}={value!r}" for key, value in given.items())
            raise InputsError(
                f"model 'timm:{self.name}' must accept {asked}, and timm says: {raised(error)}"
            ) from error
        if self.norm is not None:
            replace_norms(model, self.norm, alphas_by_flow(self), keep=on_heads_by_flow(model, self))
        return model

    def input_size(self) -> int:
        """Side of the square images that the model takes, in pixels; allocates no weight."""
        if self.image_size is not None:
            return self.image_size
        published = timm.get_pretrained_cfg(self.name)
        return 224 if published is None else int(published.input_size[-1])

    def inputs(self, seed: int = 0) -> Tensor:
        """The two photographs, at the model's size: the same for every seed."""
        return torch.from_numpy(photographs(self.input_size()))
