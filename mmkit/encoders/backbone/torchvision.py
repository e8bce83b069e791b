"""Picture models of torchvision as image towers: ViT, Swin, ConvNeXt, ResNet, RegNet, MobileNet, EfficientNet, ...

torchvision has no common way to a network's last map; there are three forms. Most keep all before the pooling in
``features``; a Swin norms it then, B x H x W x C; ResNet and RegNet are read layer by layer up to ``avgpool``; a ViT is
a sequence behind its class token. What has another form is refused by name (timm has most of them). Left out: gradient
checkpointing, which torchvision has not.
"""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from mmkit.encoders.backbone.tower import Backbone, Form, Layer, Layout, Side2, grid_up, without_numbers
from mmkit.errors import UserError
from mmkit.types import Normalise

PREFIX = "torchvision:"
POOLING = ("avgpool", "fc", "classifier", "head", "heads", "flatten", "permute", "norm")
"""What comes after the maps; a Swin's norm is applied to the last one."""
CLASSIFIERS = ("fc", "classifier", "head", "heads")


class Torchvision(Backbone):
    """The network "torchvision:NAME" with random weights.

    drop_path: the rate of stochastic depth, of families that have it. classifier: keep what follows the pooling, for
    ``logits``. UserError for a name that torchvision has not, and a form or size that does not fit.
    """

    def __init__(self, name: str, image_size: Side2, *, drop_path: float = 0.0, classifier: bool = False) -> None:
        self.asked = {"stochastic_depth_prob": drop_path} if drop_path else {}
        self.classifier = classifier
        check_name(name)
        super().__init__(f"{PREFIX}{name}", image_size)

    def made(self, size: Side2) -> nn.Module:
        """As torchvision makes it; without its classifier, where that is not wanted."""
        name = self.name.removeprefix(PREFIX)
        is_vit = name.startswith("vit_")
        if is_vit and size[0] != size[1]:
            raise UserError(f"{self.name}: torchvision's ViT reads square pictures alone, and these are {size}")
        try:
            net = models.get_model(name, weights=None, **self.asked, **({"image_size": size[0]} if is_vit else {}))
        except TypeError as error:
            odd = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            raise UserError(f"{self.name}: {f'takes no {odd[1]}' if odd else error}") from error
        for part in CLASSIFIERS if not self.classifier else ():
            if hasattr(net, part):
                setattr(net, part, nn.Identity())
        return cast(nn.Module, net)

    def described(self) -> Form:
        """Found out by passing a picture through; how pictures are read, as its default weights say."""
        net: Any = self.net
        mean, std, resample = _reading(self.name.removeprefix(PREFIX))
        normalise = Normalise(mean=mean, std=std, factor=1 / 255)
        if isinstance(net, VisionTransformer):
            width, patch = net.hidden_dim, (net.patch_size, net.patch_size)
            layers = tuple(Layer(name=name, patch=patch, width=width) for name, _ in _steps(net))
            return Form(
                width=width, patch=patch, prefix=1, pooling="first", layout="NCHW", layers=layers, normalise=normalise,
                resample=resample,
            )  # fmt: skip
        layout: Layout = "NHWC" if hasattr(net, "permute") and hasattr(net, "norm") else "NCHW"
        layers = self._measured(layout)
        if not layers:
            raise UserError(f"{self.name}: its maps do not lie on a grid of patches; timm has most of such networks")
        return Form(
            width=layers[-1].width, patch=layers[-1].patch, prefix=0, pooling="mean", layout="NCHW", layers=layers,
            normalise=normalise, resample=resample,
        )  # fmt: skip

    def look(self, pixels: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Step by step; the last is normed where the family does it before it pools."""
        net: Any = self.net
        x, found = self._begun(pixels), dict[str, Tensor]()
        swin = hasattr(net, "permute") and hasattr(net, "norm")
        for name, step in _steps(net):
            x = step(x)
            if name in names:
                found[name] = x.permute(0, 3, 1, 2) if swin else x
        if isinstance(net, VisionTransformer):
            return net.encoder.ln(x), found
        if isinstance(net, models.DenseNet):
            return x.relu(), found  # a part of its forward, not of its ``features``
        return (net.norm(x).permute(0, 3, 1, 2) if swin else x), found

    def fitted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Positions of a ViT resampled by torchvision; no classifier, where this network has none."""
        own = self.net.state_dict()
        given = {name: value for name, value in state.items() if name in own or name.split(".")[0] not in CLASSIFIERS}
        if isinstance(self.net, VisionTransformer):
            with torch.no_grad():
                side, patch = self.net.image_size, self.net.patch_size
                given = dict(interpolate_embeddings(side, patch, OrderedDict(given)))
        return given

    def _begun(self, pixels: Tensor) -> Tensor:
        """Of a ViT the patches with class token and positions."""
        net: Any = self.net
        if not isinstance(net, VisionTransformer):
            return pixels
        patches = net._process_input(pixels)
        x = torch.cat([net.class_token.expand(len(patches), -1, -1).to(patches.dtype), patches], 1)
        return cast(Tensor, net.encoder.dropout(x + net.encoder.pos_embedding))

    def _measured(self, layout: Layout) -> tuple[Layer, ...]:
        """The steps whose maps are smaller than the picture, with how much smaller: by a picture of 256 pixels."""
        side, found = 256, list[Layer]()
        shapes: list[tuple[str, torch.Size]] = []

        def passed(x: Tensor) -> None:
            for name, step in _steps(self.net):
                x = step(x)
                shapes.append((name, x.shape))

        with without_numbers(self.net) as call:
            call(passed, (side, side))
        for name, shape in shapes:
            high, width = (shape[1], shape[3]) if layout == "NHWC" else (shape[2], shape[1])
            patch = max(1, round(side / high))
            if grid_up((side, side), (patch, patch))[0] == high:
                found.append(Layer(name=name, patch=(patch, patch), width=width))
        return tuple(found)


def check_name(name: str) -> None:
    """UserError for what is no model of torchvision that sorts pictures."""
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"{PREFIX}{name}: torchvision has no such model of pictures{hint}")


def _steps(net: Any) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """What is done one after the other before the pooling, by name; UserError for a form that is not known here."""
    if isinstance(net, VisionTransformer):
        return [(f"encoder.layers.{name}", step) for name, step in net.encoder.layers.named_children()]
    if isinstance(getattr(net, "features", None), nn.Sequential):
        return [(f"features.{name}", step) for name, step in net.features.named_children()]
    children = list(net.named_children())
    if "avgpool" in dict(children) and any(name in dict(children) for name in ("layer4", "trunk_output")):
        return [(name, step) for name, step in children if name not in POOLING]
    raise UserError(
        f"{PREFIX}{type(net).__name__.lower()}: mmkit knows ViT, ResNet, RegNet of torchvision and what keeps layers "
        "in `features`; timm has the others: timm:NAME"
    )


def _reading(name: str) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, deviation and resampling of the default weights."""
    how = models.get_model_weights(name).DEFAULT.transforms()
    return tuple(how.mean), tuple(how.std), how.interpolation.value
