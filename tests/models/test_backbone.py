"""Models whose image tower is a network of others: trained, saved, and loaded from the folder alone."""

from functools import partial

import pytest
import torch
from PIL import Image

import mmkit
from mmkit.config import Data, Experiment, Run, dump
from mmkit.data.images.transforms import EvalTransform, TrainTransform
from mmkit.data.openmoji.scenes import Scenes
from mmkit.errors import UserError
from mmkit.heads.image_classify import ImageClassify
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.albef import albef
from mmkit.models.sizes.dual import clip, lit
from mmkit.models.sizes.vision import vision
from mmkit.nn.pool import FirstToken, MeanToken
from mmkit.task import Task
from mmkit.train.build import make_dataset
from tests.evals.parts import tokenizer
from tests.examples import VOCAB, batch
from tests.sizes import TOWERS, albef_tiny

SMALL = {**TOWERS, "max_tokens": 16, "text_depth": 1, "embed_dim": 16}


def albef_on(name, size=64):
    return partial(albef, image_size=size, fusion_depth=1, dropout=0.0, backbone=name, **SMALL)


@pytest.mark.parametrize(
    ("name", "pooling", "layers"), [("timm:test_resnet", "mean", 5), ("timm:test_vit", "first", 6)]
)
def test_all_heads_of_albef_learn_from_it(name, pooling, layers):
    torch.manual_seed(0)
    model = albef_on(name)(VOCAB)
    assert (model.spec.pooling, len(model.spec.layers)) == (pooling, layers)
    heads = {"itc": ITC(model.spec, queue_size=0), "itm": ITM(model.spec), "mlm": MLM(model.spec)}
    task = Task(model, heads, momentum=0.9)
    b = batch(4, image_size=64)
    out = task(b, 0)
    out.loss.backward()
    assert out.loss.isfinite()
    learns = [p.grad is not None and bool(p.grad.abs().sum()) for n, p in model.image.named_parameters() if "conv" in n]
    assert learns == [] or any(learns)
    image = model.encode_image(b.pixels)
    pooled = image.x[:, 0] if pooling == "first" else image.x.mean(1)
    joint = torch.nn.functional.normalize(model.image_proj(pooled), dim=-1)
    torch.testing.assert_close(model.embed_image(image), joint)


def test_a_dual_encoder_pools_as_its_tower_does():
    for name, pool in (("timm:test_resnet", MeanToken), ("timm:test_vit", FirstToken)):
        for make in (clip, lit):
            model = make(VOCAB, image_size=64, backbone=name, **SMALL)
            assert type(model.image_pool) is pool
    model = make(VOCAB, image_size=64, backbone="timm:test_resnet", **SMALL)
    assert not any(p.requires_grad for p in model.image.parameters())
    x = torch.randn(2, 3, 64, 64)
    image = model.eval().encode_image(x)
    torch.testing.assert_close(model.image_pool(image), image.x.mean(1))
    with pytest.raises(UserError, match="leaves out no patches"):
        clip(VOCAB, image_size=64, backbone="timm:test_resnet", patch_dropout=0.5, **SMALL)


def test_a_head_that_sorts_reads_the_mean_where_there_is_no_class_token():
    model = vision(image_size=64, backbone="timm:test_resnet").eval()
    head = ImageClassify(model.spec, ("a", "b"))
    f = Task(model, {"class": head}, momentum=None).features(batch(2, image_size=64), 0)
    torch.testing.assert_close(head.predict(f), head.out(f.image.x.mean(1)))


def test_a_run_reads_pictures_as_its_tower_does_unless_it_says_otherwise():
    spec = vision(image_size=64, backbone="timm:test_vit").spec
    source = Scenes(n=8, kinds=5, size=64)

    def read(**data):
        exp = Experiment(
            name="x",
            heads={},
            run=Run(steps=1),
            data=Data(train=partial(Scenes), image_size=64, global_batch=2, **data),
        )
        dataset, plain = make_dataset(exp, source, None, spec)
        return dataset.transform.mean, dataset.transform.std, plain.mean, plain.std, plain.resample

    half = (0.5, 0.5, 0.5)
    assert spec.resample == "bicubic"
    assert read() == (half, half, half, half, "bicubic")
    own = {"transform": partial(TrainTransform, mean=(0.1, 0.2, 0.3))}
    assert read(**own) == ((0.1, 0.2, 0.3), half, (0.1, 0.2, 0.3), half, "bicubic")
    own = {"eval_transform": partial(EvalTransform, resample="box")}
    assert read(**own)[2:] == (half, half, "box")
    assert vision(image_size=32, patch=8, depth=1, width=16, heads=2).spec.normalise is None


def test_saved_and_loaded_from_its_folder_alone(tmp_path):
    """Also at another size, at which it is saved and loaded again."""
    words = tokenizer()
    exp = Experiment(
        name="on-resnet", model=albef_on("timm:test_resnet"), heads={"itm": partial(ITM)}, run=Run(steps=1),
        data=Data(train=partial(Scenes), image_size=64, global_batch=2),
    )  # fmt: skip
    model = exp.model(vocab_size=words.vocab_size)
    torch.nn.init.uniform_(model.image.net.bn1.running_mean)
    transform = EvalTransform(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    saved = Predictor(model, {"itm": ITM(model.spec)}, words, transform, 9)
    hub.save(tmp_path / "run", saved, dump(exp))
    loaded = mmkit.load(tmp_path / "run")
    pictures = [Image.new("RGB", (80, 60), colour) for colour in ("red", "navy")]
    assert torch.equal(loaded.encode_image(pictures), saved.encode_image(pictures))
    assert loaded.match(pictures, ["a cat"] * 2).shape == (2,)
    other = mmkit.load(tmp_path / "run", image_size=96)
    assert other.model.image.image_size == (96, 96)
    assert not torch.allclose(other.encode_image(pictures), loaded.encode_image(pictures))
    hub.save(tmp_path / "other", other, dump(exp))
    again = mmkit.load(tmp_path / "other")
    assert again.model.image.image_size == (96, 96)
    assert torch.equal(again.encode_image(pictures), other.encode_image(pictures))


def test_init_takes_the_networks_own_weights_or_another_runs(tmp_path):
    import timm
    from safetensors.torch import save_file

    from mmkit.train.init import initialise

    net = timm.create_model("test_resnet")
    net.bn1.running_mean.fill_(3.0)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    model = albef_on("timm:test_resnet")(VOCAB)
    told = initialise(
        Task(model, {"itm": ITM(model.spec)}, momentum=None), {"image": str(tmp_path / "net.safetensors")}
    )
    assert "100 %" in told["model.image"]
    assert torch.equal(model.image.net.layer1[0].conv1.weight, net.layer1[0].conv1.weight)
    assert model.image.net.bn1.running_mean[0] == 3
    vit = albef_tiny(VOCAB)
    with pytest.raises(UserError, match=r"net\.safetensors"):
        initialise(Task(vit, {"itm": ITM(vit.spec)}, momentum=None), {"image": str(tmp_path / "net.safetensors")})
