"""Settings of every test, and ``pytest --parity-table FILE``: what the comparisons with other code measured.

``pytest -m gpu`` runs what needs a GPU, and that alone; all other tests compute on the CPU wherever they run.

One thread for each process, as tests run in two processes at a time; said before anything imports torch.

A file's tests run in one worker, so that what they share is made once.

Tests start dozens of processes that import torch. Where Python is told to keep no compiled modules, each would compile
all of it anew, five seconds a time: they are kept in pytest's own folder then, and beside no source.

What a worker has imported takes Python's collector half a second to look through. A run does so as it begins, of which
the tests begin hundreds: here it leaves what is old alone, and so does the collector, mostly.
"""

import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parent / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from mmkit.train import garbage
from tests.parity import measure

gc.disable()  # until all tests are collected, of which nothing goes
garbage.OLDEST = 1
NOTES: list[dict] = []


def pytest_addoption(parser):
    parser.addoption("--parity-table", metavar="FILE", type=Path, help="write what the comparisons measured")


def pytest_configure(config):
    config.addinivalue_line("markers", "parity(layout, against): what it measures goes into docs/parity.md")
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    """Files with a slow test come first, so that in the end no worker is left alone with one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    gc.enable()
    gc.set_threshold(10_000, 10, 50)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where a test computes. A run that it starts computes there by itself, see ``pytest_configure``."""
    import torch

    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _measured(request):
    measure.start()
    yield
    marker = request.node.get_closest_marker("parity")
    if marker is not None:
        request.node.user_properties.append((measure.PROPERTY, measure.noted(*marker.args)))


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        NOTES.extend(note for name, notes in report.user_properties if name == measure.PROPERTY for note in notes)


def pytest_sessionfinish(session):
    path = session.config.getoption("--parity-table")
    if path is not None and not hasattr(session.config, "workerinput"):
        measure.write_table(path, NOTES)
