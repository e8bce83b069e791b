"""``mmkit features`` as a user calls it: each kind of data that it reads, and what is refused before any work."""

import json

import datasets
import pyarrow.parquet as pq
import pytest

from mmkit.cli import main
from mmkit.hub import folder as hub
from tests.evals.parts import Pictures
from tests.hub.test_folder import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model; a data set with columns of its own as ``datasets`` saves it, in splits and alone."""
    root = tmp_path_factory.mktemp("features")
    hub.save(root / "model", *make())
    source = Pictures(4)
    rows = {"img": [source[i].image for i in range(4)], "said": [list(source[i].captions) for i in range(4)]}
    data = datasets.Dataset.from_dict(rows).cast_column("img", datasets.Image())
    datasets.DatasetDict({"val": data, "test": data.select([0])}).save_to_disk(root / "splits")
    data.save_to_disk(root / "alone")
    (root / "pictures").mkdir()
    for i in range(4):
        source[i].image.save(root / "pictures" / f"COCO_{i}.png")
    (root / "list.json").write_text(
        json.dumps(
            {
                "dataset": "coco",
                "images": [
                    {
                        "filename": f"COCO_{i}.png", "filepath": "", "split": "val" if i else "test", "imgid": i,
                        "sentences": [{"raw": "a box", "sentid": i}],
                    }
                    for i in range(4)
                ],
            }
        )
    )  # fmt: skip
    return root


def run(folder, data, out, *arguments):
    given = ("--model", str(folder / "model"), "--data", str(folder / data), "--out", str(out), "--device", "cpu")
    return main(["features", *given, *map(str, arguments)])


def test_a_saved_data_set(folder, tmp_path):
    columns = ("--columns", "image=img,caption=said")
    assert run(folder, "splits", tmp_path / "a.parquet", *columns, "--split", "val") == 0
    assert pq.read_table(tmp_path / "a.parquet")["captions"].to_pylist()[1] == list(Pictures()[1].captions)
    assert run(folder, "splits", tmp_path / "b.parquet", *columns) == 0
    assert pq.read_table(tmp_path / "b.parquet").num_rows == 1
    assert run(folder, "alone", tmp_path / "c.parquet", "--columns", "image=img", "--no-texts") == 0
    assert pq.read_table(tmp_path / "c.parquet")["captions"].to_pylist() == [[]] * 4


def test_a_published_list(folder, tmp_path):
    options = ("--split", "val", "--images", folder / "pictures")
    assert run(folder, "list.json", tmp_path / "a.parquet", *options) == 0
    assert pq.read_table(tmp_path / "a.parquet")["captions"].to_pylist() == [["a box"]] * 3


@pytest.mark.parametrize(
    ("data", "option", "message"),
    [
        ("pictures", ("--split", "val"), "--split: has no meaning for"),
        ("pictures", ("--columns", "image=x"), "--columns: has no meaning for"),
        ("alone", ("--columns", "picture=img"), "--columns picture=img: write FIELD=COLUMN"),
        ("alone", ("--images", "."), "--images: has no meaning for"),
        ("splits", ("--split", "dev"), "no split 'dev'; there are val, test"),
    ],
)
def test_options_that_do_not_fit(folder, tmp_path, capsys, data, option, message):
    assert run(folder, data, tmp_path / "a.parquet", *option) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
