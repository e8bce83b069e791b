"""Embeddings in files: the same as the model gives, nothing lost on the way, and pictures that cannot be read."""

import json
import os
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from mmkit.data.records import Record
from mmkit.data.sources.folder import Pictures
from mmkit.errors import UserError
from mmkit.inference import embed_files as module
from mmkit.inference.embed_files import embed_files
from tests.evals.parts import Pictures as Coloured
from tests.evals.parts import predictor
from tests.several import on_processes
from tests.sizes import dual_tiny, vilt_tiny


@pytest.fixture
def folder(tmp_path):
    """Seven pictures in two folders, two with captions beside, and one that is none."""
    source = Coloured(7)
    for i in range(7):
        place = tmp_path / "pictures" / str(i % 2) / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        source[i].image.save(place)
    (tmp_path / "pictures/0/2.txt").write_text("a red box\n\n a tile \n")
    (tmp_path / "pictures/1/3.txt").write_text("a pink square")
    return tmp_path


def read(path):
    """Keys, image embeddings, captions, caption embeddings."""
    if path.suffix == ".parquet":
        table = pq.read_table(path).to_pydict()
        texts = [vector for group in table["caption_embeddings"] for vector in group]
        return table["key"], torch.tensor(table["embedding"]), table["captions"], torch.tensor(texts)
    with safe_open(path, framework="pt") as file:
        about = json.loads(bytes(file.get_tensor("about").numpy()))
        captions: list = [[] for _ in about["keys"]]
        for row, caption in zip(file.get_tensor("text_image").tolist(), about["captions"], strict=True):
            captions[row].append(caption)
        return about["keys"], file.get_tensor("image"), captions, file.get_tensor("text")


@pytest.mark.parametrize("name", ["out.parquet", "new/out.safetensors"])
def test_equal_to_the_model(folder, name):
    model, source = predictor(), Pictures(folder / "pictures")
    found = embed_files(model, source, folder / name, batch_size=3)
    keys, images, captions, texts = read(folder / name)
    assert keys == ["0/0.png", "0/2.png", "0/4.png", "0/6.png", "1/1.png", "1/3.png", "1/5.png"]
    assert (found.pictures, found.texts, found.width, found.unreadable) == (7, 3, 16, ())
    assert torch.allclose(images, model.encode_image([folder / "pictures" / key for key in keys]), atol=1e-6)
    assert [group for group in captions if group] == [["a red box", "a tile"], ["a pink square"]]
    assert torch.allclose(texts, model.encode_text(["a red box", "a tile", "a pink square"]), atol=1e-6)
    assert images.dtype == texts.dtype == torch.float32
    assert [p.name for p in (folder / name).parent.iterdir() if p.name.startswith(".")] == []  # nothing is left over


def test_without_texts_and_for_two_towers(folder):
    model = predictor(heads=(), model=dual_tiny)
    embed_files(model, Pictures(folder / "pictures"), folder / "out.parquet", texts=False)
    _, images, captions, _ = read(folder / "out.parquet")
    assert images.shape == (7, 16)
    assert not any(captions)


def test_pictures_in_memory(tmp_path):
    found = embed_files(predictor(), Coloured(5), tmp_path / "a.parquet", batch_size=2)
    assert found.texts == 9
    assert pq.read_table(tmp_path / "a.parquet")["image"].to_pylist() == [None] * 5


def test_unreadable_pictures_are_named(folder, caplog):
    (folder / "pictures/0/3.jpg").write_text("no picture")
    found = embed_files(predictor(), Pictures(folder / "pictures"), folder / "out.parquet", batch_size=3)
    assert found.pictures == 7
    assert len(found.unreadable) == 1
    assert "3.jpg" in found.unreadable[0]
    assert "left out" in caplog.text
    assert "3.jpg" in caplog.text
    assert "0/3.jpg" not in read(folder / "out.parquet")[0]
    (folder / "pictures/0/5.jpg").write_text("no picture")
    with pytest.raises(
        UserError, match=r"2 of 9 pictures cannot be read, more than the 10 %[\s\S]*3\.jpg[\s\S]*5\.jpg"
    ):
        embed_files(predictor(), Pictures(folder / "pictures"), folder / "other.parquet")
    assert not (folder / "other.parquet").exists()
    allowed = embed_files(predictor(), Pictures(folder / "pictures"), folder / "o.parquet", max_bad_fraction=0.3)
    assert allowed.pictures == 7
    assert len(allowed.unreadable) == 2


def test_nothing_but_bad_pictures(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"none of the 1 pictures can be read:\n.*a\.png"):
        embed_files(predictor(), Pictures(tmp_path), tmp_path / "o.parquet", max_bad_fraction=1.0)


def test_one_bad_picture_of_few_is_left_out_but_not_where_none_may_be(folder):
    (folder / "pictures/0/3.jpg").write_text("no picture")
    source = Pictures(folder / "pictures")
    assert embed_files(predictor(), source, folder / "a.parquet", max_bad_fraction=0.01).pictures == 7
    with pytest.raises(UserError, match=r"1 of 8 pictures cannot be read, more than the 0 %"):
        embed_files(predictor(), source, folder / "b.parquet", max_bad_fraction=0.0)


def test_what_pictures_are_called_may_be_longer_than_a_header(tmp_path):
    """safetensors refuses headers of 100 MB, after all the work."""
    long = "a dog " * 2_000_000

    class Long(Coloured):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), key=f"{index} {long}")

    embed_files(predictor(), Long(9), tmp_path / "out.safetensors", texts=False)
    keys, images, *_ = read(tmp_path / "out.safetensors")
    assert keys == [f"{i} {long}" for i in range(9)]
    assert images.shape == (9, 16)


def test_own_output_among_the_pictures_is_none_of_them(folder):
    out = folder / "pictures" / "f.parquet"
    for _ in range(2):
        assert embed_files(predictor(), Pictures(folder / "pictures"), out).pictures == 7
    assert len(read(out)[0]) == 7


def test_goes_on_where_it_was_stopped(folder, monkeypatch):
    monkeypatch.setattr("mmkit.inference.embed_files.PART_BATCHES", 1)
    model, source, encoded = predictor(), Pictures(folder / "pictures"), []

    def stop(what, done, total):
        if done == 6:
            raise KeyboardInterrupt

    model.progress = stop
    with pytest.raises(KeyboardInterrupt):
        embed_files(model, source, folder / "out.parquet", batch_size=3)
    assert not (folder / "out.parquet").exists()
    model.progress = lambda what, done, total: None
    plain = type(model.model).encode_image

    def counted(self, pixels):
        encoded.append(len(pixels))
        return plain(self, pixels)

    monkeypatch.setattr(type(model.model), "encode_image", counted)
    assert embed_files(model, source, folder / "out.parquet", batch_size=3).resumed == 3
    assert sum(encoded) == 4
    monkeypatch.undo()
    embed_files(model, source, folder / "whole.parquet", batch_size=3)
    assert torch.allclose(read(folder / "out.parquet")[1], read(folder / "whole.parquet")[1], atol=1e-6)


def test_parts_of_another_model_are_not_taken(folder, monkeypatch):
    monkeypatch.setattr("mmkit.inference.embed_files.PART_BATCHES", 1)
    source, first = Pictures(folder / "pictures"), predictor(1)

    def stop(what, done, total):
        if done == 6:
            raise KeyboardInterrupt

    first.progress = stop
    with pytest.raises(KeyboardInterrupt):
        embed_files(first, source, folder / "out.parquet", batch_size=3)
    model = predictor(2)
    assert embed_files(model, source, folder / "out.parquet", batch_size=3).resumed == 0
    keys, images, *_ = read(folder / "out.parquet")
    assert torch.allclose(images, model.encode_image([folder / "pictures" / key for key in keys]), atol=1e-6)


def test_problems(folder):
    source = Pictures(folder / "pictures")
    with pytest.raises(UserError, match=r"out\.csv: the name must end in \.parquet or \.safetensors"):
        embed_files(predictor(), source, folder / "out.csv")
    with pytest.raises(UserError, match="no joint space"):
        embed_files(predictor(heads=(), model=vilt_tiny), source, folder / "out.parquet")
    (folder / "b.parquet").mkdir()
    with pytest.raises(UserError, match=r"b\.parquet: is a folder"):
        embed_files(predictor(), source, folder / "b.parquet")
    (folder / "file").write_text("")
    with pytest.raises(UserError, match=r"out\.parquet: cannot be written"):
        embed_files(predictor(), source, folder / "file" / "out.parquet")


def test_what_changed_since_it_was_stopped_is_embedded_anew(folder, monkeypatch):
    """Parts from before were used again for another picture of that name."""
    monkeypatch.setattr("mmkit.inference.embed_files.PART_BATCHES", 1)
    model, changed = predictor(), folder / "pictures/0/0.png"
    stopped = folder / "a.parquet"

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmkit.inference.embed_files._parquet", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_files(model, Pictures(folder / "pictures"), stopped, batch_size=1)
    Image.new("RGB", (50, 40), "white").save(changed)
    found = embed_files(model, Pictures(folder / "pictures"), stopped, batch_size=1)
    assert found.resumed == 6
    embed_files(model, Pictures(folder / "pictures"), folder / "b.parquet", batch_size=1)
    assert torch.equal(read(stopped)[1], read(folder / "b.parquet")[1])


def test_other_captions_and_other_bytes_are_another_record():
    one = Record(image=b"a", captions=("a dog",), image_id="1", key="1")
    marks = [module._mark(replace(one, **changed)) for changed in ({}, {"captions": ("a cat",)}, {"image": b"b"})]
    assert marks[0] == module._mark(one)
    assert marks[1] != marks[0] != marks[2]


def test_what_was_added_since_it_was_stopped_is_all_that_is_embedded(folder, monkeypatch):
    monkeypatch.setattr("mmkit.inference.embed_files.PART_BATCHES", 1)
    model, out = predictor(), folder / "a.parquet"

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmkit.inference.embed_files._parquet", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_files(model, Pictures(folder / "pictures"), out, batch_size=2)
    Image.new("RGB", (50, 40), "white").save(folder / "pictures/1/9.png")
    found = embed_files(model, Pictures(folder / "pictures"), out, batch_size=2)
    assert (found.pictures, found.resumed) == (8, 6)  # the last part had one picture, and has two
    assert read(out)[0][-1] == "1/9.png"


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are text there")
@pytest.mark.parametrize("ending", ["parquet", "safetensors"])
def test_names_that_are_no_utf8_are_written(tmp_path, ending):
    """What a name's odd byte reads as cannot be written as text: a stack trace, after the work."""
    (tmp_path / "p").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "p/a.png")
    os.rename(tmp_path / "p/a.png", os.fsencode(tmp_path / "p") + b"/\xff.png")
    out = tmp_path / f"o.{ending}"
    assert embed_files(predictor(), Pictures(tmp_path / "p"), out).pictures == 1
    (name,) = read(out)[0]
    assert name == ("\\udcff.png" if ending == "parquet" else "\udcff.png")


def share(rank, world, folder):
    """A part is a batch of two; the second process stops in its second one at first, and all with it."""
    module.PART_BATCHES = 1
    source, out = Pictures(folder / "pictures"), folder / "shared.parquet"
    model = predictor()

    def stop(what, done, total):
        if done == 7 and rank == 1:
            raise UserError("no more")

    model.progress = stop
    with pytest.raises(UserError, match="no more"):
        embed_files(model, source, out, batch_size=2)
    assert not out.exists()
    model.progress = lambda what, done, total: None
    found = embed_files(model, source, out, batch_size=2)
    assert (found.pictures, found.texts, found.resumed) == (6, 3, 6)
    assert len(found.unreadable) == 1
    assert "broken.png" in found.unreadable[0]
    assert out.is_file()


def test_two_processes_write_the_file_of_one_and_go_on_together(folder, monkeypatch):
    broken = folder / "pictures" / "0" / "6.png"
    broken.rename(broken.with_name("broken.png"))
    broken.with_name("broken.png").write_bytes(b"no picture")
    on_processes(2, share, folder)
    assert not list(folder.glob(".*.parts"))
    monkeypatch.setattr(module, "PART_BATCHES", 1)
    embed_files(predictor(), Pictures(folder / "pictures"), folder / "alone.parquet", batch_size=2)
    assert (folder / "shared.parquet").read_bytes() == (folder / "alone.parquet").read_bytes()


def test_parts_on_another_disk_are_told(folder, monkeypatch):
    monkeypatch.setattr(module, "PART_BATCHES", 1)
    monkeypatch.setattr(module, "world_size", lambda: 2)  # of which the other one writes elsewhere
    with pytest.raises(
        UserError, match=r"000001\.safetensors: not seen by the first process; put --out on a disk that"
    ):
        embed_files(predictor(), Pictures(folder / "pictures"), folder / "x.parquet", batch_size=2)
