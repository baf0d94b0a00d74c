import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lrpilot.backends.torch.rollback import memory as memory_module
from lrpilot.backends.torch.rollback import placement
from lrpilot.backends.torch.rollback.memory import DeviceMemory, DiskMemory, HostMemory, blocks
from lrpilot.backends.torch.rollback.placement import Demand, Room, choose, control_group_rooms
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.errors import ConfigError
from torch import nn

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def rooms(cpu: float, gpu: float = 0) -> Callable[[torch.device], Room]:
    """A place with so many bytes beyond the reserve."""
    return lambda device: Room({CPU: cpu, GPU: gpu}[device] + 200, 1000)


def demand(cpu: int = 0, gpu: int = 0, growth: int = 0) -> Demand:
    copies = {device: n for device, n in ((CPU, cpu), (GPU, gpu)) if n}
    return Demand(copies, dict.fromkeys(copies, growth))


@pytest.mark.parametrize(
    ("wanted", "room", "memory"),
    [
        (demand(gpu=100), rooms(cpu=100, gpu=100), DeviceMemory),
        (demand(gpu=100), rooms(cpu=100, gpu=99), HostMemory),
        (demand(gpu=100, growth=1), rooms(cpu=100, gpu=100), HostMemory),
        (demand(gpu=100), rooms(cpu=99, gpu=99), DiskMemory),
        (demand(cpu=50, gpu=100), rooms(cpu=50, gpu=100), DeviceMemory),
        (demand(cpu=50, gpu=100), rooms(cpu=150, gpu=99), HostMemory),
        (demand(cpu=50, gpu=100), rooms(cpu=149, gpu=99), DiskMemory),
        (demand(cpu=100), rooms(cpu=100), DeviceMemory),
        (demand(cpu=100), rooms(cpu=99), DiskMemory),
    ],
)
def test_auto_is_the_first_memory_with_enough_room(
    wanted: Demand, room: Callable[[torch.device], Room], memory: type
) -> None:
    assert isinstance(choose("auto", wanted, room), memory)


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_host_room", lambda: Room(800, 1000))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert placement.room(CPU).spare == 600
    # 400 bytes of one process fit beside the reserve of 200; those of each of two don't.
    assert isinstance(choose("auto", demand(cpu=400)), DeviceMemory)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert placement.room(CPU).spare == 300
    assert isinstance(choose("auto", demand(cpu=400)), DiskMemory)
    assert isinstance(choose("auto", demand(cpu=300)), DeviceMemory)


@pytest.mark.parametrize("told", ["", "0", "-1", "two"])
def test_a_launcher_that_says_nothing_has_started_one_process(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", told)
    assert placement.processes_here() == 1


def test_processes_of_one_machine_share_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path).free
    wanted = demand(cpu=free // 2)
    assert isinstance(choose(tmp_path, wanted), DiskMemory)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match=r"by each of 8 processes, [\d,]+ are free; give another directory"):
        choose(tmp_path, wanted)


def test_what_is_asked_for_is_given_whatever_is_free(tmp_path: Path) -> None:
    asked = {"device": DeviceMemory, "host": HostMemory, "disk": DiskMemory, str(tmp_path): DiskMemory}
    for name, memory in asked.items():
        assert isinstance(choose(name, demand(gpu=100), rooms(0)), memory)
    assert isinstance(choose(tmp_path, demand(gpu=100), rooms(0)), DiskMemory)


@pytest.mark.parametrize("wrong", ["gpu", "/no/such/directory", "", 3, None])
def test_anything_else_is_refused_with_what_would_be_right(wrong: str) -> None:
    with pytest.raises(ConfigError, match=rf"{re.escape(repr(wrong))}.*'auto', 'device', 'host' or 'disk'.*directory"):
        choose(wrong, demand(cpu=1))


def network(placement: str | Path) -> tuple[nn.Linear, torch.optim.Optimizer, Snapshot]:
    net = nn.Linear(100, 50)
    optimizer = torch.optim.Adam(net.parameters())
    return net, optimizer, Snapshot(net, [optimizer], {}, placement)


def train(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.autograd.backward(net(torch.ones(100)).square().sum())
    optimizer.step()
    optimizer.zero_grad()


def test_size_and_place_are_said_before_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lrpilot")
    net, optimizer, snapshot = network(tmp_path)
    [record] = caplog.records
    expected = 3 * sum(p.nbytes for p in net.parameters())
    assert snapshot.expected_nbytes == expected
    assert expected == 60_600
    assert record.getMessage() == f"lrpilot: the snapshot lives on disk, in {tmp_path} and takes about 0.1 MB"
    train(net, optimizer)
    snapshot.take()
    assert snapshot.nbytes == snapshot.expected_nbytes == expected + 2 * torch.tensor(0.0).nbytes  # Two step counts.


@pytest.mark.parametrize(
    ("nbytes", "size"), [(0, "0.1 MB"), (5_340_000, "5.3 MB"), (999_000_000, "999.0 MB"), (7_460_000_000, "7.5 GB")]
)
def test_a_size_is_said_as_people_read_it(nbytes: int, size: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lrpilot")
    choose("host", demand(cpu=nbytes))
    assert caplog.messages == [f"lrpilot: the snapshot lives in host memory and takes about {size}"]


def test_a_full_disk_is_refused_with_the_bytes_needed_and_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=60_000))
    with pytest.raises(ConfigError, match=r"60,600 bytes are needed in .*, 60,000 are free"):
        network(tmp_path)


def test_what_was_remembered_survives_a_disk_that_got_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer, snapshot = network(tmp_path)
    snapshot.take()
    expected = net.weight.clone()
    train(net, optimizer)

    def full(file: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(ConfigError, match="bytes are needed"):
            snapshot.take()
    snapshot.restore()
    assert torch.equal(net.weight, expected)
    assert not optimizer.state


def test_room_is_claimed_where_the_system_has_no_call_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr("lrpilot.backends.torch.rollback.memory._CHUNK", 1000)
    net, _, snapshot = network(tmp_path)
    snapshot.take()
    expected = net.weight.clone()
    nn.init.zeros_(net.weight)
    snapshot.restore()
    assert torch.equal(net.weight, expected)


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    with pytest.raises(ConfigError, match="Permission denied"):
        network(tmp_path)


def test_the_file_on_disk_is_as_long_as_it_has_to_be_and_used_again(tmp_path: Path) -> None:
    net, optimizer, snapshot = network(tmp_path)
    train(net, optimizer)
    free = []
    for _ in range(3):
        snapshot.take()
        assert snapshot._taken
        free.append([t.data_ptr() for t in snapshot._taken.all_copies])
    assert free[0] == free[1] == free[2]
    assert mapped_files(os.getpid(), tmp_path) == 1
    del snapshot
    assert mapped_files(os.getpid(), tmp_path) == 0


def mapped_files(process: int, directory: Path) -> int:
    return sum(str(directory) in line for line in Path(f"/proc/{process}/maps").read_text().splitlines())


def test_nothing_is_left_on_disk_after_a_kill(tmp_path: Path) -> None:
    script = """
        import sys, torch
        from lrpilot.backends.torch.rollback.snapshot import Snapshot
        net = torch.nn.Linear(100, 100)
        snapshot = Snapshot(net, [], {}, sys.argv[1])
        snapshot.take()
        print("taken", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "taken\n"
        assert mapped_files(process.pid, tmp_path) == 1
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_the_disk_is_not_a_file_system_in_memory_if_there_is_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    assert str(choose("disk", demand(cpu=1))) == "on disk, in /var/tmp"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert str(choose("disk", demand(cpu=1))) == f"on disk, in {tmp_path}"


def test_free_memory_of_this_machine_is_a_part_of_it() -> None:
    here = placement.room(CPU)
    assert 0 < here.free < here.total


def test_a_device_that_does_not_tell_has_room() -> None:
    assert placement.room(torch.device("mps")).spare == float("inf")


def group(root: Path, directory: str, **files: str) -> None:
    path = root / "sys/fs/cgroup" / directory
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / f"memory.{name}").write_text(text)


def in_group(root: Path, line: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"8:pids:/elsewhere\n{line}\n")


def test_limits_of_control_groups_count_at_every_level(tmp_path: Path) -> None:
    in_group(tmp_path, "0::/machine/job")
    group(tmp_path, "machine/job", max="max\n", current="90\n", stat="anon 5\ninactive_file 10\n")
    group(tmp_path, "machine", max="200\n", current="150\n", stat="anon 5\ninactive_file 30\n")
    assert list(control_group_rooms(tmp_path)) == [Room(free=80, total=200)]


def test_in_a_container_the_limit_is_at_the_root(tmp_path: Path) -> None:
    in_group(tmp_path, "0::/../as/the/host/sees/it")
    group(tmp_path, "", max="200\n", current="150\n", stat="inactive_file 30\n")
    assert list(control_group_rooms(tmp_path)) == [Room(free=80, total=200)]


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    in_group(tmp_path, "4:memory:/job")
    group(
        tmp_path,
        "memory/job",
        limit_in_bytes="100\n",
        usage_in_bytes="70\n",
        stat="inactive_file 1\ntotal_inactive_file 20\n",
    )
    assert list(control_group_rooms(tmp_path)) == [Room(free=50, total=100)]


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(control_group_rooms(tmp_path)) == []


@given(st.lists(st.integers(0, 1 << 31) | st.integers(0, 1 << 12), max_size=60))
def test_stretches_share_blocks_of_powers_of_two_and_do_not_overlap(sizes: list[int]) -> None:
    totals, places = blocks(sizes)
    ends = [0] * len(totals)
    for (block, start), size in sorted(zip(places, sizes, strict=True)):
        assert start >= ends[block]
        ends[block] = start + size
    assert all(end <= total and total.bit_count() == 1 for end, total in zip(ends, totals, strict=True))
    assert sum(totals) <= sum(max(1 << max(size - 1, 0).bit_length(), 1) for size in sizes)


def test_the_state_of_a_transformer_fills_its_blocks() -> None:
    """GPT-2 with Adam's moments; a power of two for each tensor would take two thirds more."""
    width = 768
    layer = [n * width for n in (1, 1, 3 * width, 3, width, 1, 1, 1, 4 * width, 4, 4 * width, 1)]
    sizes = [n * 4 for n in (50257 * width, 1024 * width, *(12 * layer), width, width)] * 3
    totals, _ = blocks(sizes)
    assert sum(totals) < 1.02 * sum(sizes)


def test_copies_of_a_gpu_s_tensors_are_views_of_few_pinned_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "runs_ahead", lambda device: True)
    monkeypatch.setattr(memory_module, "follow", lambda device, place: None)
    monkeypatch.setattr(memory_module, "mark", lambda device: None)
    monkeypatch.setattr(memory_module, "empty_on_host", lambda size, dtype, device: torch.empty(size, dtype=dtype))
    net = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3), nn.Conv1d(3, 5, 1).to(torch.float64))
    snapshot = Snapshot(net, [torch.optim.SGD(net.parameters(), lr=0.1)], {}, "host")
    snapshot.take()
    assert snapshot._taken is not None
    assert len({copy.untyped_storage().data_ptr() for copy in snapshot._taken.all_copies}) <= 3
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.zero_()
    snapshot.restore()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
