"""Models of clips: what they start from, what is saved, what every evaluator and the predictor make of clips."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import mmkit
from mmkit.cli import main
from mmkit.config import dump, load_experiment, override, validate
from mmkit.data.clip import Clip
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.openmoji.moving import Moving, MovingQuestions
from mmkit.data.records import Record
from mmkit.data.video.samplers import Sampler
from mmkit.data.video.transforms import ClipTransform
from mmkit.errors import UserError
from mmkit.evals.retrieval import Retrieval
from mmkit.hub import folder as hub
from mmkit.inference.frames import over_frames
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.dual import dual_mini
from mmkit.models.sizes.video import dual_frames_mini, video
from mmkit.models.sizes.vision import vision
from mmkit.report import answers
from mmkit.report.answers import AnswersReport, collect
from mmkit.task import Task
from mmkit.train.init import initialise
from mmkit.train.stages import train_stages

TINY = {"depth": 1, "width": 16, "heads": 2, "patch": 8}


def saved(model, folder, **arguments):
    """A model of pictures in a folder, as a run leaves it."""
    predictor = Predictor(model, {}, None, EvalTransform(size=arguments["image_size"]), 0)
    part = {"target": "mmkit.models.sizes.vision:vision", "args": arguments}
    hub.save(folder, predictor, {"dataclass": "x", "args": {"model": part, "heads": {}}})
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    """A ViT of pictures without a class token, and its folder."""
    torch.manual_seed(0)
    model = vision(image_size=16, class_token=False, **TINY)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval(), saved(model, tmp_path / "pictures", image_size=16, class_token=False, **TINY)


@pytest.mark.parametrize("how", ["factorised_attention", "factorised_product"])
def test_a_clip_that_stands_still_gives_the_picture_s_tokens(how, pictures, caplog):
    model, folder = pictures
    clips = video(image_size=16, frames=4, tubelet=2, how=how, inflation="filling", **TINY).eval()
    shares = initialise(Task(clips, {}), {"image": folder})
    assert folder in shares["model.image"]
    picture = torch.randn(2, 3, 16, 16)
    found, wanted = clips.encode_image(picture[:, :, None].expand(-1, -1, 4, -1, -1)).x, model.encode_image(picture).x
    if how == "factorised_attention":  # attention over time starts at 0
        torch.testing.assert_close(found, wanted.repeat(1, 2, 1), atol=1e-5, rtol=1e-5)
        assert "fresh: blocks.*.time_norm, blocks.*.time_attn" in shares["model.image"]
    else:  # half of the heads read along time, where all is one
        assert not torch.allclose(found, wanted.repeat(1, 2, 1), atol=1e-3)


def test_model_2_starts_from_a_picture_s_vit_of_another_size(tmp_path):
    torch.manual_seed(0)
    model = vision(image_size=16, **TINY)
    folder = saved(model, tmp_path / "pictures", image_size=16, **TINY)
    clips = video(
        image_size=32, frames=4, tubelet=2, how="factorised_encoder", time_depth=0, inflation="filling", **TINY
    )
    initialise(Task(clips, {}), {"image": folder})
    picture = torch.randn(2, 3, 32, 32)
    found = clips.eval().encode_image(picture[:, :, None].expand(-1, -1, 4, -1, -1)).x
    for token in range(3):  # the mean, and both times
        torch.testing.assert_close(found[:, token], model.eval().encode_image(picture).x[:, 0], atol=1e-5, rtol=1e-5)


def test_central_inflation_sees_the_second_of_two_frames(pictures):
    model, folder = pictures
    clips = video(image_size=16, frames=2, tubelet=2, how="factorised_attention", **TINY).eval()
    initialise(Task(clips, {}), {"image": folder})
    frames = torch.randn(1, 3, 2, 16, 16)
    torch.testing.assert_close(
        clips.encode_image(frames).x, model.encode_image(frames[:, :, 1]).x, atol=1e-5, rtol=1e-5
    )


def words(texts):
    class Words:
        pad_id, vocab_size, cls_id = 0, 30, 1

        def encode(self, text, most, kind="caption"):
            return [1, *(2 + hash(word) % 20 for word in text.split())][:most]

    return Words()


def test_the_mean_of_frames_is_that_of_the_picture_s_embeddings():
    torch.manual_seed(0)
    made = dual_mini(30, image_size=24, max_tokens=8)
    pictures = Predictor(made, {}, words([]), EvalTransform(size=24), 8)
    clip = Clip(np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), np.uint8))
    each = pictures.encode_image([Image.fromarray(clip.frames[i]) for i in (0, 2, 4)])
    wanted = torch.nn.functional.normalize(each.mean(0), dim=0)
    clips = dual_frames_mini(30, image_size=24, max_tokens=8, patch=12)
    clips.load_state_dict(made.state_dict())
    sampler = Sampler(how="linear", frames=3)
    own = Predictor(clips, {}, words([]), ClipTransform(frame=EvalTransform(size=24), sampler=sampler), 8)
    torch.testing.assert_close(own.encode_image([clip])[0], wanted)
    with pytest.raises(UserError, match=r"clip 0: is a clip, and this model reads pictures.*--frames segments:12"):
        pictures.encode_image([clip])
    with pytest.raises(UserError, match="give a number of frames"):
        over_frames(pictures, "many")
    over = over_frames(pictures, "linear:3")
    torch.testing.assert_close(over.encode_image([clip])[0], wanted)
    with pytest.raises(UserError, match="reads clips, by the sampler"):
        over_frames(over, "4")
    found = Retrieval(source=Moving(n=6, kinds=30)).evaluate(over)
    assert (found.images, found.texts) == (6, 6)
    assert found.table().title == "retrieval: 6 clips, 6 texts"


def test_every_form_of_a_clip_gives_one_embedding(tmp_path):
    torch.manual_seed(0)
    model = video(image_size=16, frames=2, tubelet=1, **TINY)
    transform = ClipTransform(frame=EvalTransform(size=16), sampler=Sampler(how="linear", frames=2))
    predictor = Predictor(model, {}, None, transform, 0)
    array = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.save(tmp_path / "a.npy", array)
    tensor = torch.from_numpy(array).permute(3, 0, 1, 2)
    record = Record(image=Clip(array), captions=(), image_id="1", key="1")
    frames = [Image.fromarray(frame) for frame in array]
    found = predictor.encode_image([Clip(array), array, tensor, frames, tmp_path / "a.npy", record])
    assert found.shape == (6, 16)
    torch.testing.assert_close(found, found[:1].expand(6, -1))
    torch.testing.assert_close(predictor.encode_image(tensor[None]), found[:1])
    still = predictor.encode_image([frames[0]])
    torch.testing.assert_close(still, predictor.encode_image([[frames[0], frames[0]]]))
    assert not torch.allclose(still, found[:1], atol=1e-4)


SMALL = ["data.global_batch=4", "run.steps=2", "run.trackers=[]", "data.train.n=40"]


def test_a_run_on_clips_trains_is_saved_and_measures_by_command(tmp_path, capsys):
    experiment = override(load_experiment("configs/pretrain/video.py:mini(how='factorised_encoder')"), [
        *SMALL, "evals.retrieval.source.n=6", "evals.retrieval.rerank_top=2", "model.how=factorised_encoder",
    ])  # fmt: skip
    metrics = train_stages(experiment, tmp_path / "run", save_model=hub.save)
    assert metrics["retrieval.images"] == 6
    loaded = mmkit.load(tmp_path / "run")
    assert loaded.transform.sampler == Sampler(how="segments", frames=4)
    smaller = mmkit.load(tmp_path / "run", image_size=32)
    assert smaller.encode_image([np.zeros((4, 20, 20, 3), np.uint8)]).shape == (1, 128)
    hub.save(tmp_path / "again", smaller, dump(experiment))
    assert mmkit.load(tmp_path / "again").transform.size == (32, 32)
    data = tmp_path / "data.jsonl"
    assert main(["data", "import", "builtin", "openmoji-moving:test", str(data), "--limit", "3"]) == 0
    assert data.read_text().count('"video"') == 3
    assert main(["data", "check", str(data)]) == 0
    assert main(["data", "show", str(data), "--out", str(tmp_path / "a.png"), "--n", "2"]) == 0
    out = str(tmp_path / "a.parquet")
    assert main(["features", "--model", str(tmp_path / "run"), "--data", str(data), "--out", out]) == 0
    assert "3" in capsys.readouterr().out
    with pytest.raises(UserError, match="one vector for each time of a clip"):
        mmkit.explain(loaded, np.zeros((4, 20, 20, 3), np.uint8), "a dog moves up")


def test_the_report_and_the_command_show_heat_maps_of_frames(tmp_path, monkeypatch, caplog):
    experiment = override(load_experiment("configs/pretrain/video.py:direction"), [*SMALL, "evals={}"])
    train_stages(experiment, tmp_path / "run", save_model=hub.save)
    model, source = mmkit.load(tmp_path / "run"), MovingQuestions(n=5, split="test", size=32)
    AnswersReport(source=source, shown=2)(model, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count('alt="the picture"') == page.count('alt="the same picture with a heat map"') == 2
    found = collect(model, source, 1)[0]
    assert found.image.size == (4 * 32 + 3 * 2, 32)
    assert found.heat.size == (4 * 192 + 3 * 2, 192)
    with monkeypatch.context() as patch:
        patch.setattr(answers, "explain_pairs", Mock(side_effect=UserError("this model has none")))
        assert collect(model, source, 1)[0].heat is None
    assert "no heat maps: this model has none" in caplog.text
    frames = [Image.new("RGB", (32, 32), (30 * i, 0, 0)) for i in range(8)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    arguments = ["--image", tmp_path / "a.gif", "--text", "which way does the dog move?", "--answer", "left"]
    arguments += ["--out", tmp_path / "a.png", "--json", tmp_path / "a.json", "--model", tmp_path / "run"]
    assert main(["explain", *map(str, arguments)]) == 0
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["frames"] == [1, 3, 5, 7]
    assert told["frame"] in told["frames"]
    assert {word["frame"] for word in told["words"]} <= {1, 3, 5, 7}


def test_tubelets_of_as_many_values_as_a_patch_are_no_patches(tmp_path):
    """4 x 8 x 8 = 1 x 16 x 16."""
    sizes = {"depth": 1, "width": 16, "heads": 2}
    torch.manual_seed(0)
    pictures = vision(image_size=32, patch=16, **sizes)
    clips = video(image_size=16, frames=4, tubelet=4, patch=8, **sizes)
    assert pictures.image.patch.proj.weight.shape == clips.image.patch.proj.weight.shape
    start = saved(pictures, tmp_path / "pictures", image_size=32, patch=16, **sizes)
    with pytest.raises(UserError, match="cut pictures, and this model tubelets of clips"):
        initialise(Task(clips, {}), {"image": start})
    predictor = Predictor(clips, {}, None, ClipTransform(frame=EvalTransform(size=16), sampler=Sampler(frames=4)), 0)
    part = {"target": "mmkit.models.sizes.video:video"}
    part["args"] = {"image_size": 16, "frames": 4, "tubelet": 4, "patch": 8, **sizes}
    hub.save(tmp_path / "clips", predictor, {"dataclass": "x", "args": {"model": part, "heads": {}}})
    with pytest.raises(UserError, match="cut tubelets of clips, and this model pictures"):
        initialise(Task(pictures, {}), {"image": str(tmp_path / "clips")})
    assert mmkit.load(tmp_path / "clips").encode_image([np.zeros((4, 16, 16, 3), np.uint8)]).shape == (1, 16)


def test_a_run_on_clips_starts_from_one_whose_config_says_defaults(tmp_path):
    sizes = {"image_size": 16, "frames": 4, "patch": 8, "depth": 1, "width": 16, "heads": 2}
    made = video(**sizes)  # tubelets of 2
    part = {"target": "mmkit.models.sizes.video:video", "args": sizes}
    transform = ClipTransform(frame=EvalTransform(size=16), sampler=Sampler(frames=4))
    saving = {"dataclass": "x", "args": {"model": part, "heads": {}}}
    hub.save(tmp_path / "clips", Predictor(made, {}, None, transform, 0), saving)
    other = video(**(sizes | {"frames": 8}))
    assert initialise(Task(other, {}), {"image": str(tmp_path / "clips")})["model.image"].endswith("(100 %)")
    assert torch.equal(other.image.patch.proj.weight, made.image.patch.proj.weight)
    assert other.image.positions.grid == (4, 2, 2)


def test_a_model_of_clips_is_written_as_one_of_pictures_only_where_it_reads_frames(tmp_path, capsys):
    experiment = override(load_experiment("configs/pretrain/video.py:frames"), [*SMALL, "evals={}"])
    train_stages(experiment, tmp_path / "frames", save_model=hub.save)
    assert main(["convert", "clip", "--reverse", str(tmp_path / "frames"), str(tmp_path / "a.pt")]) == 0
    sizes = {"image_size": 16, "frames": 4, "tubelet": 4, "patch": 8, "depth": 1, "width": 16, "heads": 2}
    transform = ClipTransform(frame=EvalTransform(size=16), sampler=Sampler(frames=4))
    part = {"target": "mmkit.models.sizes.video:video", "args": sizes}
    saving = {"dataclass": "x", "args": {"model": part, "heads": {}}}
    hub.save(tmp_path / "clips", Predictor(video(**sizes), {}, None, transform, 0), saving)
    assert main(["convert", "vit", "--reverse", str(tmp_path / "clips"), str(tmp_path / "b.pth")]) == 2
    assert "it reads clips, by tubelets of frames" in capsys.readouterr().err
    assert not (tmp_path / "b.pth").exists()


def test_frames_that_do_not_fit_are_refused_before_training():
    experiment = load_experiment("configs/pretrain/video.py:classify")
    with pytest.raises(UserError, match=r"model\.frames = 8 but data\.transform\.sampler takes 4: they must"):
        validate(override(experiment, ["model.frames=8"]))
    with pytest.raises(UserError, match=r"reads clips of 4 frames, and data\.transform gives pictures"):
        validate(override(experiment, ["data.transform=null"]))
    with pytest.raises(UserError, match="no whole tubelets of 3"):
        video(image_size=16, frames=4, tubelet=3, **TINY)
    with pytest.raises(UserError, match="there are spacetime"):
        video(image_size=16, how="all", **TINY)
