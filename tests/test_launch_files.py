"""The launch files in configs/accelerate as Accelerate reads them; cpu2.yaml starts the processes of other tests."""

from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "accelerate"


def launched(file, *words):
    """What the launcher makes of a file and further words: its settings, and the environment of the processes."""
    arguments = ["--config_file", str(FOLDER / file), *words, "scripts/pretrain.py"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    return args, prepare_multi_gpu_env(args)


def test_one_node():
    args, environment = launched("ddp.yaml", "--num_processes", "8")
    assert (args.multi_gpu, args.num_machines, args.nproc_per_node) == (True, 1, "8")
    assert int(args.master_port) > 0
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    assert environment["ACCELERATE_DYNAMO_BACKEND"] == "NO"
    with pytest.raises(ValueError, match="num_processes"):
        launched("ddp.yaml")


def test_several_nodes():
    words = ["--num_machines", "4", "--num_processes", "32", "--machine_rank", "3", "--main_process_ip", "10.0.0.1"]
    args, _ = launched("multi_node.yaml", *words)
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("4", "8", 3)
    assert (args.rdzv_endpoint, args.rdzv_backend) == ("10.0.0.1:29500", "static")
    args, _ = launched("multi_node.yaml", *words, "--rdzv_backend", "c10d")
    assert args.rdzv_backend == "c10d"


def test_two_processes_on_the_cpu_see_no_card():
    args, environment = launched("cpu2.yaml")
    assert args.nproc_per_node == "2"
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1,-1"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_comment_says_how_to_use_it(file):
    first = file.read_text().partition("compute_environment")[0]
    assert all(line.startswith("#") for line in first.splitlines())
    assert f"accelerate launch --config_file configs/accelerate/{file.name}" in first
