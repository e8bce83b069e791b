"""Pictures that cannot be read, in every command that opens some: the file is named, and nothing waits or starts."""

import json
import os

import pytest
from PIL import Image

from mmkit.cli import main
from mmkit.data.images.opening import load_image
from mmkit.data.reading import reading
from mmkit.hub import folder as hub
from tests.evals.parts import Pictures
from tests.hub.test_folder import make

BROKEN = {
    "zero": b"", "page": b"<!DOCTYPE html>", "script": b"%!PS-Adobe\nshowpage", "half": None, "folder": None,
    "pipe": None, "link": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A saved model and six good pictures with records."""
    root = tmp_path_factory.mktemp("broken")
    hub.save(root / "model", *make())
    source = Pictures(6)
    for i in range(6):
        source[i].image.save(root / f"{i}.png")
    return root


def broken(root, kind):
    path = root / f"{kind}.png"
    if kind == "half":
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:900])
    elif kind == "folder":
        path.mkdir(exist_ok=True)
    elif kind == "pipe" and hasattr(os, "mkfifo"):
        if not path.exists():
            os.mkfifo(path)
    elif kind == "link":
        if not path.is_symlink():
            path.symlink_to(root / "nowhere.png")
    else:
        path.write_bytes(BROKEN[kind] or b"")
    return path


def records(root, *paths):
    file = root / "records.jsonl"
    file.write_text(
        "".join(json.dumps({"image": str(path), "caption": f"a picture {path.stem}"}) + "\n" for path in paths)
    )
    return file


@pytest.mark.parametrize("kind", BROKEN)
def test_the_commands_name_it(root, tmp_path, capsys, kind):
    path = broken(root, kind)
    data = records(root, *(root / f"{i}.png" for i in range(5)), path)
    model = ("--model", str(root / "model"), "--device", "cpu")
    for command in (
        ("retrieval", *model, "--data", str(data)),
        ("explain", *model, "--image", str(path), "--text", "a red box", "--out", str(tmp_path / "heat.png")),
        ("features", *model, "--data", str(data), "--out", str(tmp_path / "f.parquet"), "--max-bad", "0"),
        ("data", "check", str(data)),
    ):
        assert main(list(command)) != 0, command
        said = capsys.readouterr()
        assert path.name in said.err + said.out, command
        assert "Traceback" not in said.err
    assert not [path for path in tmp_path.iterdir() if path.name != ".f.parquet.parts"]  # kept, to go on from


def test_many_lines_are_read_by_several_threads(root, capsys, tmp_path):
    """Reading threads once shared one place in the file: other lines, or halves of them, came out."""
    good = [root / f"{i % 6}.png" for i in range(1500)]
    data = records(root, *good[:700], broken(root, "zero"), *good[700:])

    from mmkit.data.records import JsonLines

    def opened(record):
        load_image(record)
        return record.image

    source = JsonLines(data)
    for _ in range(2):
        found = list(reading(range(1501), lambda i, _: opened(source[i]), batch_size=256, threads=8, bad="leave out"))
        assert [path for read in found for path in read.made] == good
        assert [i for read in found for i in read.left] == [700]
