"""Names of earlier versions: every part that a file of 0.1.0 may name is found, by one table."""

import importlib

import pytest

from mmkit.config import load_experiment
from mmkit.config.moved import _MODULES, _NAMES, _OTHER_MODULES, present, where_now, with_present_names
from mmkit.errors import UserError


@pytest.mark.parametrize("new", sorted({*_MODULES.values(), *_OTHER_MODULES.values()}))
def test_the_new_modules_exist(new):
    importlib.import_module(f"mmkit.{new}")


@pytest.mark.parametrize("old", sorted(_NAMES))
def test_the_new_names_exist(old):
    module, _, name = present(f"mmkit.{old}").partition(":")
    assert hasattr(importlib.import_module(module), name)


def test_names_are_changed_where_they_name_a_part_and_nowhere_else():
    old = {"target": "mmkit.data.openmoji:Scenes", "args": {"path": "mmkit.data.openmoji:Scenes", "target": 3}}
    assert with_present_names([old]) == [{**old, "target": "mmkit.data.openmoji.scenes:Scenes"}]
    for same in ("mine.mmkit.data.openmoji:Scenes", "mmkit.heads.itm:ITM", "mmkit.data.openmoji.scenes:Scenes", "x"):
        assert present(same) == same


def test_a_config_that_imports_an_old_name_is_told_the_new_one(tmp_path):
    (tmp_path / "c.py").write_text("from mmkit.data.image_ops import TrainTransform\n")
    with pytest.raises(
        UserError, match=r"No module named 'mmkit\.data\.image_ops'.*it is mmkit\.data\.images\.transforms now"
    ):
        load_experiment(str(tmp_path / "c.py"))
    assert where_now("numpy") == where_now(None) == ""
