"""What the page does with pictures and words, and which models it does it with."""

import pytest
import torch
from PIL import Image

from mmkit.data.images.opening import BadImage
from mmkit.errors import UserError
from mmkit.heads.image_classify import ImageClassify
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.dual import clip
from mmkit.page import tasks
from mmkit.page.shelf import pictures_in
from mmkit.page.tabs import OWN
from tests.evals.parts import Pictures, predictor
from tests.page.parts import ANSWERS, answering
from tests.sizes import dual_tiny, vilt_tiny, vision_tiny

PICTURES = [Pictures(9)[i].image for i in range(9)]


@pytest.fixture(scope="module")
def model():
    return predictor()


@pytest.fixture
def shelf(tmp_path):
    for i, picture in enumerate(PICTURES):
        picture.save(tmp_path / f"{i}.png")
    return pictures_in(tmp_path)


def able(given):
    return [task.__name__ for task in OWN if tasks.can(task.__name__, given)]


def test_a_model_has_the_tasks_that_it_learned(model):
    assert able(model) == ["find", "name", "explain"]
    assert able(answering()) == ["ask"]  # its joint space is that of random weights, or of another objective
    assert able(predictor(heads=("mixed",), model=vilt_tiny)) == ["find", "name", "explain"]
    assert able(predictor(heads=(), model=dual_tiny)) == ["find", "name"]
    assert able(predictor(heads=("itc",), model=dual_tiny)) == ["find", "name"]
    sight = vision_tiny()
    head = ImageClassify(sight.spec, ("a", "b"))
    assert able(Predictor(sight, {"class": head}, None, model.transform, 0)) == ["sort"]
    assert able(Predictor(sight, {}, None, model.transform, 0)) == []
    assert clip is dual_tiny.func


def test_pictures_are_found_by_similarity_and_sorted_again_by_matching(model, shelf, monkeypatch):
    words = "a red box"
    monkeypatch.setattr(tasks, "RERANKED", 4)
    found = tasks.find(model, shelf, words, best=3)
    similar = model.encode_image(PICTURES) @ model.encode_text([words])[0]
    first = similar.argsort(descending=True)[:4].tolist()
    chances = model.match([PICTURES[i] for i in first], [words] * 4)
    wanted = [first[i] for i in chances.argsort(descending=True).tolist()][:3]
    assert [path.name for path, _ in found] == [f"{i}.png" for i in wanted]
    torch.testing.assert_close(torch.tensor([score for _, score in found]), chances.sort(descending=True).values[:3])


def test_matches_that_round_to_sure_are_told_apart(shelf):
    model, names = predictor(heads=("mixed",), model=vilt_tiny), ["red", "a green box", "grey"]
    odds = model.match([PICTURES[2]] * 3, names, log_odds=True)
    before = [path for path, _ in tasks.find(model, shelf, "a red box")]
    torch.testing.assert_close(model.match([PICTURES[2]] * 3, names), odds.sigmoid())
    with torch.no_grad():
        model.heads["mixed"].classify.bias[1] += 40
    found = tasks.name(model, PICTURES[2], names)
    assert list(found.values()) == pytest.approx(odds.softmax(0).tolist(), abs=1e-4)
    again = tasks.find(model, shelf, "a red box")
    assert [path for path, _ in again] == before
    assert {score for _, score in again} == {1.0}


def test_two_towers_find_by_similarity_alone(shelf):
    model = predictor(heads=(), model=dual_tiny)
    found = tasks.find(model, shelf, "a blue tile", best=2)
    similar = model.encode_image(PICTURES) @ model.encode_text(["a blue tile"])[0]
    assert [path.name for path, _ in found] == [f"{i}.png" for i in similar.topk(2).indices.tolist()]
    assert [score for _, score in found] == pytest.approx(similar.topk(2).values.tolist(), abs=1e-6)


def test_a_shelf_is_embedded_once_for_a_model(model, shelf, monkeypatch):
    first = shelf.embeddings(model)
    monkeypatch.setattr(Predictor, "encode_image", lambda *args: pytest.fail("embedded again"))
    assert shelf.embeddings(model) is first


def test_names_share_all_that_is_likely(model):
    found = tasks.name(model, PICTURES[2], ["red", "a green box", "grey"])
    similar = model.encode_text(list(found)) @ model.encode_image([PICTURES[2]])[0]
    wanted = (similar / model.model.temperature().detach()).softmax(0)
    assert list(found.values()) == pytest.approx(wanted.tolist(), abs=1e-5)
    matched = predictor(heads=("mixed",), model=vilt_tiny)
    found = tasks.name(matched, PICTURES[2], ["red", "grey"])
    odds = matched.match([PICTURES[2]] * 2, ["red", "grey"]).double().logit()
    assert list(found.values()) == pytest.approx(odds.softmax(0).tolist(), abs=1e-6)


def test_answers_and_heat_maps(model):
    asking = answering()
    assert tasks.ask(asking, PICTURES[0], "red?") == dict(asking.answer([PICTURES[0]], ["red?"])[0])
    assert set(tasks.ask(asking, PICTURES[0], "red?")) == set(ANSWERS)
    maps = tasks.heat_maps(model, Image.new("RGB", (40, 20), "red"), "a red box")
    assert [below for _, below in maps][1:] == ["a", "red", "box"]
    assert all(picture.size == (480, 240) for picture, _ in maps)


def test_a_visitors_file_is_read_or_refused(tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(BadImage):
        tasks.opened(tmp_path / "broken.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "large.png")
    assert tasks.opened(tmp_path / "large.png").size == (40, 30)
    monkeypatch.setenv("MMKIT_MAX_MEGAPIXELS", "0.0012")
    assert tasks.opened(tmp_path / "large.png").size == (40, 30)
    monkeypatch.setenv("MMKIT_MAX_MEGAPIXELS", "0.001199")
    with pytest.raises(tasks.TooLarge):
        tasks.opened(tmp_path / "large.png")
    with pytest.raises(UserError):
        pictures_in(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "names"),
    [("cat\n dog \n\ncat", ["cat", "dog"]), ("cat, dog", ["cat", "dog"]), ("猫，狗、鸟", ["猫", "狗", "鸟"]),
     ("a, b\nc", ["a, b", "c"]), ("", [])],
)  # fmt: skip
def test_names_are_lines_or_stand_between_commas(text, names):
    assert tasks.split_names(text) == names
