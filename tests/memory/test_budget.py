import pytest

from fastnas.memory import budget as module
from fastnas.memory.budget import GIB, GPUS, MIB, free_bytes, read_budget, show_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * GIB), ("8 GB", 8 * 10**9), ("0.5gib", GIB // 2), ("100MB", 10**8), ("2048KiB", 2 * MIB), ("7B", 7)],
)
def test_a_size_is_all_for_tensors(text, size):
    budget = read_budget(text)
    assert (budget.total, budget.usable, budget.granularity) == (size, size, 1)


@pytest.mark.parametrize("text", ["H100", "NVIDIA H100", "A100-80GB", "GeForce RTX 4090", "GTX 1080Ti", "t4"])
def test_a_named_gpu_leaves_room_for_its_context_and_allocator(text):
    budget = read_budget(text)
    assert budget.total in GPUS.values()
    assert 0.85 * budget.total < budget.usable < 0.93 * budget.total
    assert budget.granularity == 512


def test_the_free_memory_of_a_gpu_is_asked_for():
    asked = []

    def free(number):
        asked.append(number)
        return 10 * GIB

    assert read_budget("cuda:3", free).total == 10 * GIB
    assert read_budget("cuda", free).total == 10 * GIB
    assert asked == [3, 0]


def test_a_gpu_without_anything_free_has_nothing_to_give():
    assert read_budget("cuda:0", lambda _: 100 * MIB).usable == 0


class Driver:
    """NVML as far as it is used: two GPUs."""

    class NVMLError(Exception):
        pass

    class _Memory:
        def __init__(self, free):
            self.free = free

    def __init__(self):
        self.running = 0

    def nvmlInit(self):
        self.running += 1

    def nvmlShutdown(self):
        self.running -= 1

    def nvmlDeviceGetHandleByIndex(self, number):
        if number > 1:
            raise self.NVMLError("Invalid Argument")
        return number

    def nvmlDeviceGetHandleByUUID(self, name):
        return {"GPU-a": 0, "GPU-b": 1}[name]

    def nvmlDeviceGetMemoryInfo(self, handle):
        return self._Memory((handle + 1) * GIB)


@pytest.mark.parametrize(
    ("visible", "number", "expected"),
    [(None, 0, 1), (None, 1, 2), ("1", 0, 2), ("1,0", 1, 1), ("GPU-b", 0, 2)],
)
def test_the_driver_is_asked_about_the_gpu_that_this_process_sees(monkeypatch, visible, number, expected):
    driver = Driver()
    monkeypatch.setattr(module, "pynvml", driver)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert free_bytes(number) == expected * GIB
    assert driver.running == 0


@pytest.mark.parametrize(("visible", "number"), [(None, 2), ("0", 1)])
def test_a_gpu_that_is_not_there_is_named(monkeypatch, visible, number):
    driver = Driver()
    monkeypatch.setattr(module, "pynvml", driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    with pytest.raises(ValueError, match=f"plan: cuda:{number} must exist, got .*Give a size as 24GiB"):
        free_bytes(number)
    assert driver.running == 0


def test_this_machine_has_memory_and_keeps_some():
    budget = read_budget("ram")
    assert 0 < budget.usable < budget.total


@pytest.mark.parametrize("text", ["", "many", "24", "GiB", "-1GiB", "0GB", "cuda:x", "H1000"])
def test_words_that_name_nothing_are_refused(text):
    with pytest.raises(ValueError, match="plan: budget must be a size as 24GiB, cuda:N, ram, or one of 1080ti"):
        read_budget(text)


@pytest.mark.parametrize(
    ("size", "text"), [(5, "5 B"), (1536, "1.50 KiB"), (3 * MIB, "3.00 MiB"), (200 * GIB, "200 GiB")]
)
def test_bytes_are_shown_as_people_read_them(size, text):
    assert show_bytes(size) == text
