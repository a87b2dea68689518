import pytest
import torch
import torch.distributed as dist

from fastnas.ranks import ALONE, Ranks, join_processes, local_device, place_in_environment, require_divisible


def test_the_parts_of_a_batch_are_disjoint_and_make_up_all_of_it():
    taken = [i for rank in range(3) for i in range(12)[Ranks(rank, 3).part(12)]]
    assert taken == list(range(12))


def test_alone_nothing_is_exchanged():
    x = torch.ones(2, requires_grad=True)
    assert ALONE.share({"x": x})["x"] is x
    assert ALONE.mean(x) is x
    assert ALONE.totals(1.5, 2) == [1.5, 2]
    assert ALONE.broadcast("words") == "words"
    ALONE.require_same("anything", "text")
    with join_processes("cpu") as ranks:
        assert ranks == ALONE


def test_the_environment_decides_the_place(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert place_in_environment() == Ranks(2, 4)


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "two")])
def test_a_place_that_is_none_is_refused(monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match="ranks: the environment variables RANK and WORLD_SIZE must be numbers"):
        place_in_environment()


def test_every_process_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_device("cuda:1") == torch.device("cuda:1")  # alone, it is taken at its word
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    assert local_device("auto") == local_device("cuda") == torch.device("cuda:3")
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda with several processes"):
        local_device("cuda:1")


def test_gpus_without_nccl_are_said_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ValueError, match="ranks: NCCL must be there for processes on GPUs, got none"),
        join_processes("auto"),
    ):
        pass


def test_processes_without_a_meeting_point_are_said_in_one_line(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConnectionError, match=r"ranks: the processes must find each other.*torchrun"),
        join_processes("cpu"),
    ):
        pass


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    require_divisible(Ranks(0, 2), 8)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 2 processes"):
        require_divisible(Ranks(0, 2), 7)
