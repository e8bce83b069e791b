"""Networks of torchvision as image towers; what they compute before pooling is what they give."""

import pytest
import torch
from torchvision import models

from mmkit.encoders.backbone.by_name import backbone
from mmkit.errors import UserError
from mmkit.models.vision import Vision

# name, size, unit, whether any size fits
FAMILIES = [
    ("resnet18", (64, 70), 1, True), ("mobilenet_v3_small", (64, 64), 1, True), ("squeezenet1_1", (65, 65), None, True),
    ("regnet_y_400mf", (64, 64), 1, True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "unit", "any_size"), FAMILIES[:2])
def test_the_pooled_tokens_are_what_the_classifier_reads(name, size, unit, any_size):
    image = backbone(f"torchvision:{name}", size, classifier=True).eval()
    spec = Vision(image).spec
    assert (spec.class_tokens, spec.pooling, image.unit, image.any_size) == (0, "mean", (unit, unit), any_size)
    seen = []
    image.net.avgpool.register_forward_hook(lambda module, given, out: seen.append(out.flatten(1)))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert torch.equal(image.logits(x), image.net(x))
        tokens, layers = image.intermediates(x, image.layers)
    torch.testing.assert_close(tokens.x.mean(1), seen[0])
    assert {each: spec.grid(size, each)[0] * spec.grid(size, each)[1] for each in layers} == {
        each: got.x.shape[1] for each, got in layers.items()
    }
    assert all(spec.layer_width(each) == got.x.shape[2] for each, got in layers.items())


def test_a_densenet_ends_in_what_its_classifier_pools(monkeypatch):
    torch.manual_seed(0)
    net = models.DenseNet(growth_rate=4, block_config=(1, 1), num_init_features=8).eval()
    torch.nn.init.normal_(net.features.norm5.bias)
    monkeypatch.setattr(models, "get_model", lambda name, **more: net)
    image = backbone("torchvision:densenet121", (64, 64), classifier=True).eval()
    seen = []
    net.classifier.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        image.logits(x)
        torch.testing.assert_close(image(x).x.mean(1), seen[0])


class Small(models.VisionTransformer):
    def __init__(self, image_size=32):
        super().__init__(image_size, 16, 2, 2, 16, 32)


def test_a_vit_has_its_class_token_first_and_is_resampled(monkeypatch):
    monkeypatch.setattr(models, "get_model", lambda name, weights, image_size: Small(image_size))
    image = backbone("torchvision:vit_b_16", (32, 32), classifier=True).eval()
    torch.nn.init.normal_(image.net.heads.head.weight)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = image(x).x
        torch.testing.assert_close(image.net.heads(tokens[:, 0]), image.logits(x))
        assert tokens.shape == (2, 5, 16)
        with pytest.raises(UserError, match="was made for pictures of 32x32"):
            image(torch.zeros(1, 3, 64, 64))
        corner = image.net.encoder.pos_embedding[0, [0, 1, 4]]
        image.resize_((64, 64))
        assert image(torch.zeros(1, 3, 64, 64)).x.shape == (1, 17, 16)
        torch.testing.assert_close(image.net.encoder.pos_embedding[0, [0, 1, 16]], corner)
    with pytest.raises(UserError, match="square pictures"):
        backbone("torchvision:vit_b_16", (32, 48))


def test_without_the_classifier_nothing_of_it_is_kept():
    image = backbone("torchvision:resnet18", (64, 64))
    assert not [name for name, _ in image.named_parameters() if ".fc." in name]
    state = models.resnet18().state_dict()
    image.net.load_state_dict(image.fitted(state))
    assert torch.equal(image.net.conv1.weight, state["conv1.weight"])


def test_how_pictures_are_read_is_that_of_the_default_weights():
    sight = backbone("torchvision:resnet18", (64, 64)).sight
    assert (sight["normalise"].mean, sight["resample"]) == ((0.485, 0.456, 0.406), "bilinear")


def test_what_is_not_known_is_refused():
    for name, said in (
        ("resnot18", r"no such model.*did you mean resnet18"), ("maxvit_t", "timm has the others"),
        ("squeezenet1_1", "squeezenet1_1: its maps do not lie on a grid"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            backbone(f"torchvision:{name}", (224, 224))
    with pytest.raises(UserError, match="no gradient checkpointing"):
        backbone("torchvision:resnet18", (64, 64), checkpointing=True)
    with pytest.raises(UserError, match="takes no stochastic_depth_prob"):
        backbone("torchvision:resnet18", (64, 64), drop_path=0.1)
