"""The wheel: what is in it, and what a model of the projects says where it alone is installed."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_build_names_mmkit_and_the_configs_alone():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build == {"packages": ["mmkit"], "force-include": {"configs": "mmkit/_configs"}}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked."""
    out = tmp_path_factory.mktemp("wheel")
    uv = shutil.which("uv", path=f"{os.environ['PATH']}{os.pathsep}{Path.home() / '.local/bin'}")
    if uv is None:
        pytest.skip("uv is not here")
    done = subprocess.run([uv, "build", "--wheel", "--out-dir", str(out), str(ROOT)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the build backend is not to be had: {done.stderr[-200:]}")
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_it_holds_mmkit_alone_with_all_that_it_needs(installed):
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"mmkit"}
    inside = {path.relative_to(installed / "mmkit").as_posix() for path in (installed / "mmkit").rglob("*.*")}
    here = {path.relative_to(ROOT / "mmkit").as_posix() for path in (ROOT / "mmkit").rglob("*.*")}
    configs = {f"_configs/{path.relative_to(ROOT / 'configs').as_posix()}" for path in (ROOT / "configs").rglob("*.py")}
    assert {name for name in here if "__pycache__" not in name} | configs <= inside
    assert not [name for name in inside if "test_" in name]


def test_without_the_repository_a_model_of_the_projects_says_where_they_are(installed, tmp_path):
    """Also where a folder of that name is beside it, or the current one."""
    mark = tmp_path / "ran"
    for place in (installed, tmp_path):
        (place / "projects/nlvr2").mkdir(parents=True)
        for file in ("__init__.py", "nlvr2/__init__.py", "nlvr2/model.py"):
            (place / "projects" / file).write_text(f"open({str(mark)!r}, 'w')\nLOADABLE = {{'model': ('model:x',)}}\n")
    program = (
        "import mmkit, sys; print(mmkit.__file__)\n"
        "from mmkit.config.allowed import MODEL, find\n"
        "try:\n    find('projects.nlvr2.model:x', MODEL)\nexcept ValueError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )  # fmt: skip
    shutil.rmtree(installed / "projects")
    assert done.stdout.startswith(str(installed)), done.stderr
    assert "installed without them: get https://github.com/mmkit/mmkit and run mmkit from there" in done.stdout
    assert not mark.exists()
