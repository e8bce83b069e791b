"""The table's rows: each a run that can be started, drawings that no pre-training shows, means with their spread."""

import pytest
from PIL import Image

from mmkit.config import load_experiment, override, validate
from mmkit.data.openmoji.scenes import class_names
from projects.mim import drawings, table


def test_every_row_is_a_run_of_equal_samples_with_its_seed():
    for row, spec in table.ROWS.items():
        if spec is None:
            continue
        exp = validate(override(load_experiment(spec), table.settings(row, 7, workers=2)))
        assert exp.run.steps * exp.data.batch_plan(1).global_batch == 89_600
        assert (exp.run.seed, exp.data.workers, exp.report) == (7, 2, None)
        pictures_alone = row.startswith(("mae-pixels", "simmim", "beit")) or row == "mae"
        assert list(exp.evals) == (["held_out"] if pictures_alone else [])


def test_a_row_tells_what_the_objective_says_of_held_out_pictures(tmp_path):
    for seed, error in ((0, 0.25), (1, 0.5)):
        (tmp_path / f"mae-{seed}").mkdir()
        (tmp_path / f"mae-{seed}" / "numbers.json").write_text(f'{{"loss": 9, "held_out.error": {error}}}')
    runs = [tmp_path / "mae-0", tmp_path / "mae-1"]
    assert table.told("mae", runs) == "mae-0: error 0.25\nmae-1: error 0.5\n"
    assert table.told("random", runs) == ""


def test_drawings_are_of_other_kinds_and_a_row_tells_the_spread(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drawings, "PARTS", {"train": (6, 0), "test": (2, 1)})
    drawings.main([str(tmp_path / "d"), "--kinds", "2", "--size", "48"])
    names = {folder.name for folder in (tmp_path / "d/train").iterdir()}
    assert names == {folder.name for folder in (tmp_path / "d/test").iterdir()} == set(class_names(202)[200:])
    assert not names & set(class_names(200))
    assert sum(1 for _ in (tmp_path / "d").rglob("*.png")) == 2 * (6 + 2)
    pictures = [Image.open(file).tobytes() for file in sorted((tmp_path / "d").rglob("*.png"))]
    assert len(set(pictures)) == len(pictures)
    with pytest.raises(SystemExit):
        drawings.main([str(tmp_path / "d")])
    run = table.mmkit
    quick = lambda words: run([*words, *(["--steps", "10"] if words[0] == "probe" else [])])  # noqa: E731
    monkeypatch.setattr(table, "mmkit", quick)
    call = ["random", "--drawings", str(tmp_path / "d"), "--out", str(tmp_path / "runs"), "--seeds", "0"]
    table.main(call)
    told = capsys.readouterr().out
    assert "| random | " in told
    assert "(one seed)" in told
    with pytest.raises(SystemExit):
        table.main(["mae", "--drawings", str(tmp_path / "none"), "--out", str(tmp_path)])
    found = [{"knn": 0.5, "linear": 0.25, "attentive": 1.0}, {"knn": 0.7, "linear": 0.75, "attentive": 1.0}]
    assert table.line("x", found) == "| x | 60.0 % (50.0 to 70.0) | 50.0 % (25.0 to 75.0) | 100.0 % (100.0 to 100.0) |"
