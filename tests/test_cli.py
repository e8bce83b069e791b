"""The commands as people call them: what they print, what they write, and how they refuse."""

import json
import runpy
import sys

import pytest
from PIL import Image

import mmkit.cli
from mmkit.cli import main
from mmkit.cli.main import nested, plain_names
from mmkit.data.texts.tokenizers import load_tokenizer


@pytest.fixture
def records(tmp_path):
    for i in range(4):
        Image.new("RGB", (40, 30), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
    lines = [
        json.dumps({"image": f"{i}.png", "caption": [f"picture number {i}", f"shade {i} of red"]}) for i in range(4)
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_data_show_draws_a_batch(tmp_path):
    assert main(["data", "show", "openmoji:de", "--out", str(tmp_path / "grid.png"), "--n", "4", "--size", "48"]) == 0
    assert min(Image.open(tmp_path / "grid.png").size) > 90


def test_data_check_counts(records, tmp_path):
    assert main(["data", "check", str(records), "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["records"], found["captions"], found["bad_images"]) == (4, 8, 0)


def test_data_check_names_a_broken_picture(records, capsys):
    (records.parent / "2.png").write_bytes(b"no picture")
    assert main(["data", "check", str(records)]) == 2
    assert "2.png" in capsys.readouterr().err


def test_a_malformed_line_is_named(records, capsys):
    records.write_text(records.read_text() + '\n{"image": "0.png", "caption": ')
    assert main(["data", "check", str(records)]) == 2
    assert "records.jsonl:5" in capsys.readouterr().err


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_tokenizer_is_trained_on_captions(language, tmp_path):
    out = tmp_path / "vocabulary"
    assert main(["tokenizer", "train", f"openmoji:{language}", "--out", str(out), "--vocab-size", "700"]) == 0
    tokenizer = load_tokenizer(out)
    assert 300 < tokenizer.vocab_size <= 700
    text = {"en": "a dog left of a key", "zh": "狗在钥匙左边"}[language]
    assert tokenizer.decode(tokenizer.encode(text, 50)).replace(" ", "") == text.replace(" ", "")
    assert main(["tokenizer", "train", "openmoji", "--out", str(out)]) == 2


def test_an_unknown_setting_is_named_before_training(tmp_path, capsys):
    assert main(["quickstart", "--out", str(tmp_path / "run"), "--set", "optim.learning_rate=1"]) == 2
    assert "optim.learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["file/a.json", "", "x" * 300])
def test_where_the_numbers_go_is_checked_before_any_work(records, tmp_path, capsys, where):
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    (records.parent / "2.png").write_bytes(b"no picture")  # which would be said otherwise
    assert main(["data", "check", str(records), "--json", str(tmp_path / where)]) == 2
    assert f"--json {tmp_path / where}: " in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_the_table_is_shown_even_if_it_cannot_be_written(records, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules[main.__module__], "check_output", lambda path: None)  # as a full disk
    assert main(["data", "check", str(records), "--json", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "captions" in shown.out
    assert "cannot be written" in shown.err


def test_numbers_are_written_flat_and_nested():
    assert nested({"step": 3, "retrieval.rerank.t2i_r1": 0.5}) == {
        "step": 3, "retrieval.rerank.t2i_r1": 0.5, "retrieval": {"rerank": {"t2i_r1": 0.5}},
    }  # fmt: skip


@pytest.mark.parametrize("option", ["--templates", "--classes"])
def test_bytes_that_are_no_text_are_refused_before_any_work(tmp_path, capsys, option):
    arguments = ["zeroshot", "--model", "none", "--data", "none"]
    assert main([*arguments, option, "caf\udce9 {}"]) == 2
    assert rf"{option} 'caf\udce9 {{}}': not UTF-8" in capsys.readouterr().err
    (tmp_path / "caf\udce9").write_text("{}\n")  # a file may be called so
    assert main([*arguments, option, str(tmp_path / "caf\udce9")]) == 2
    assert "not UTF-8" not in capsys.readouterr().err


def test_numbers_are_shown_once():
    """Those of the only evaluation are there by their short names too; runs of equal length are not one another."""
    once = {"step": 2, "retrieval.t2i_r1": 0.5, "retrieval.rerank.t2i_r1": 0.4, "note": ["a"]}
    assert plain_names({"t2i_r1": 0.5, "rerank.t2i_r1": 0.4, **once}) == list(once)
    both = {"step": 2, "vqa.step": 2, "loss": 1.0, "vqa.loss": 2.0}
    assert plain_names(both) == list(both)


def test_ctrl_c_while_python_starts_is_one_quiet_line(monkeypatch, capsys):
    class Asked:
        """An importer that Ctrl-C reaches at this module."""

        def find_spec(self, name, path=None, target=None):
            if name == "mmkit.cli.main":
                raise KeyboardInterrupt

    def asked():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "mmkit.cli.main")
        patch.setattr(sys, "meta_path", [Asked(), *sys.meta_path])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(mmkit.cli.__file__)
    assert ended.value.code == 130
    monkeypatch.setitem(main.__globals__, "make_parser", asked)
    assert main(["info", "."]) == 130
    assert capsys.readouterr().err == "mmkit: interrupted\n" * 2
