"""Models to be tried: every type of transformers, and one small model of each module of timm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from configs import WIDTH, model_class, small_configs
from inputs import running_inputs
from torch import Tensor, nn

MOST_PARAMETERS = 150_000_000


class NotTriedError(Exception):
    """A model that cannot be built small, or does not run on random inputs; ``stage`` says which."""

    def __init__(self, stage: str, message: str):
        super().__init__(message)
        self.stage = stage


@dataclass(frozen=True)
class Ready:
    """A model that builds and runs.

    Attributes:
        build: makes it, with weights of its own initialization.
        inputs: that it runs on.
        way: how it was made small.
        parameters: how many it has.
    """

    build: Callable[[], nn.Module]
    inputs: dict[str, Any] | Tensor
    way: str
    parameters: int

    def named(self) -> dict[str, Any]:
        """Inputs by their names; a picture alone is ``x``."""
        return self.inputs if isinstance(self.inputs, dict) else {"x": self.inputs}

    def doubled(self) -> Ready:
        """The same in double precision."""
        inputs = {
            name: one.double() if isinstance(one, Tensor) and one.is_floating_point() else one
            for name, one in self.named().items()
        }
        return replace(
            self,
            build=lambda: self.build().double(),
            inputs=inputs if isinstance(self.inputs, dict) else inputs["x"],
        )


def transformers_types() -> list[str]:
    """Model types that ``AutoModel`` builds."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    found = []
    for name in sorted(CONFIG_MAPPING):
        try:
            if CONFIG_MAPPING[name] in MODEL_MAPPING:
                found.append(name)
        except Exception:
            found.append(name)  # tried all the same: the reason is in the store
    return found


def transformers_model(name: str, width: int = WIDTH) -> Ready:
    """A small model of a type.

    Raises:
        NotTriedError: no configuration of it builds and runs.
    """
    from transformers import CONFIG_MAPPING

    failed: NotTriedError | None = None
    for way, config in small_configs(CONFIG_MAPPING[name], width):
        try:
            return _ready(config, way)
        except NotTriedError as error:
            if failed is None or (failed.stage != "not run" and error.stage == "not run"):
                failed = error
    assert failed is not None
    raise failed


def _ready(config: Any, way: str) -> Ready:
    if isinstance(config, Exception):
        raise NotTriedError("not built", f"configuration, {way}: {type(config).__name__}: {_line(config)}") from config
    try:
        kind = model_class(type(config))
    except ValueError as error:
        raise NotTriedError("not built", _line(error)) from error
    _float32(config)

    def build() -> nn.Module:
        own = copy.deepcopy(config)
        make = getattr(kind, "_from_config", kind)
        return make(own, dtype=torch.float32) if make is not kind else kind(own)

    try:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build().parameters())
    except Exception:
        parameters = 0  # some cannot be laid out on meta
    if parameters > MOST_PARAMETERS:
        raise NotTriedError("not built", f"has {parameters:,} parameters also when it is made small ({way})")
    try:
        model = build().eval()
    except Exception as error:
        raise NotTriedError("not built", f"{type(error).__name__}: {_line(error)}") from error
    try:
        inputs = running_inputs(model)
    except RuntimeError as error:
        raise NotTriedError("not run", str(error)) from error
    return Ready(build, inputs, way, sum(p.numel() for p in model.parameters()))


def _float32(config: Any) -> None:
    for value in [config, *vars(config).values()]:
        if hasattr(value, "to_dict") and getattr(value, "dtype", None) is not None:
            value.dtype = torch.float32


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


_CHOSEN = {
    "deepseek_vit": "deepseek_vit_412m",
    "resnet": "resnet18",
    "resnetv2": "resnetv2_18",
    "senet": "legacy_seresnet18",
    "vovnet": "ese_vovnet39b",
}
"""Where the name does not say which is small, or the small one has one block to a stage."""

HYBRIDS = (
    "vit_small_r26_s32_224",
    "vit_base_r50_s16_224",
    "vit_base_resnet26d_224",
    "vit_small_resnet50d_s16_224",
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_small_patch16_dinov3_qkvb",
    "mobilenetv4_hybrid_medium",
)
"""More models of modules that have been tried with another one."""

_SHALLOWER = ("deepseek_vit_412m",)
"""Of which there is no small one."""

_SMALL = ("tiny", "small", "xxs", "xs", "_s", "nano", "pico", "femto", "atto", "base")
_SIDE = 96


def timm_modules() -> dict[str, str]:
    """One small model of each file of models: the one that is chosen, or the first name that says that it is small."""
    from timm.models._registry import _module_to_models

    found = {}
    for module, names in sorted(_module_to_models.items()):
        small = [[name for name in sorted(names) if word in name] for word in _SMALL]
        found[module] = _CHOSEN.get(module) or next((some[0] for some in small if some), sorted(names)[0])
    return found


def timm_model(name: str) -> Ready:
    """A model of timm with images of half the usual side, where it takes these.

    Raises:
        NotTriedError: it does not build or run.
    """
    failed: Exception | None = None
    for settings, side in _timm_ways(name):
        try:
            import timm

            model = timm.create_model(name, **settings).eval()
            channels, height, width = model.default_cfg.get("input_size", (3, 224, 224))
            size = (height, width) if side is None else (side, side)
            alone = not any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in model.modules())
            image = torch.randn(1 if alone else 2, channels, *size, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                model(image)
        except Exception as error:
            failed = failed or error
            continue
        parameters = sum(p.numel() for p in model.parameters())
        return Ready(
            lambda settings=settings: timm.create_model(name, **settings),  # type: ignore[misc]
            image,
            f"{size[0]} pixels",
            parameters,
        )
    raise NotTriedError("not run", f"{type(failed).__name__}: {_line(failed)}" if failed else "no way was tried")


def _timm_ways(name: str) -> Iterator[tuple[dict[str, Any], int | None]]:
    import timm

    config = timm.get_pretrained_cfg(name)
    side = config.input_size[-1] if config is not None else 224
    if name in _SHALLOWER:
        yield {"depth": 4}, 112
    if config is None or not config.fixed_input_size:
        yield {}, min(side, _SIDE)
    else:
        yield {"img_size": side // 2}, side // 2
    yield {}, None  # the side of its configuration
