import pytest

from fastnas.memory.budget import GIB, GPUS, MIB, read_budget, read_free_bytes, show_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * GIB), ("8 GB", 8 * 10**9), ("0.5tib", 512 * GIB), ("900MB", 9 * 10**8), ("2048000KiB", 2000 * MIB)],
)
def test_a_size_is_that_of_a_gpu_unless_it_says_ram(text, size):
    on_gpu, of_ram, on_cpu = read_budget(text), read_budget(f"{text} ram"), read_budget(text, "cpu")
    assert on_gpu.total == of_ram.total == on_cpu.total == size
    assert (on_gpu.target, of_ram.target, on_cpu.target) == ("cuda", "cpu", "cpu")
    assert (on_gpu.granularity, of_ram.granularity) == (512, 1)
    assert on_gpu.usable == int((size - 640 * MIB) * 0.92)  # context and fragments
    assert of_ram.usable == on_cpu.usable == int((size - 512 * MIB) * 0.9)


CARDS = ["H100", "NVIDIA H100", "A100-80GB", "a100 80gb", "GeForce RTX 4090", "GTX 1080Ti", "t4", "RTX 3060"]


@pytest.mark.parametrize("text", CARDS)
def test_a_named_gpu_leaves_room_for_its_context_and_allocator(text):
    budget = read_budget(text)
    assert budget.total in GPUS.values()
    assert 0.85 * budget.total < budget.usable < 0.93 * budget.total
    assert budget.target == "cuda"


@pytest.mark.parametrize("gigabytes", [8, 10, 12, 16, 24, 48, 80])
def test_cards_of_every_size_that_people_have_are_known(gigabytes):
    assert any(0.9 * gigabytes * GIB < size < gigabytes * GIB for size in GPUS.values())


# what nvidia-smi says of these cards
@pytest.mark.parametrize(("name", "mib"), [("4090", 24564), ("3090", 24576), ("t4", 15109), ("l4", 23034)])
def test_no_card_is_thought_larger_than_its_driver_says(name, mib):
    assert 0.95 * mib * MIB < GPUS[name] <= mib * MIB


@pytest.mark.parametrize(
    ("text", "close"),
    [
        ("RTX 4099", "4090"),
        ("A100", "a100-40gb or a100-80gb"),
        ("h10", "h100 or h100nvl"),
        ("rmm", "ram"),
        ("24", "24GiB"),
        ("4009", "4090 or 4009GiB"),
        ("9" * 5000, "24GiB"),
    ],
)
def test_a_typo_is_answered_with_the_nearest(text, close):
    with pytest.raises(ValueError, match=rf"Did you mean {close}\?$"):
        read_budget(text)


@pytest.mark.parametrize(
    ("text", "target"), [("ram", "cuda"), ("16GB ram", "cuda"), ("4090", "cpu"), ("cuda:0", "cpu")]
)
def test_a_budget_of_another_device_than_the_plan_is_for_is_refused(text, target):
    with pytest.raises(ValueError, match=r"plan: --budget must be memory of .* got .*, or plan --for "):
        read_budget(text, target)


def test_without_a_budget_what_is_here_is_taken(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert read_budget(None).target == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert read_budget(None, free_on_gpu=lambda _: 10 * GIB).target == "cuda"
    assert read_budget(None, "cpu").target == "cpu"


def test_the_free_memory_of_a_gpu_is_asked_for():
    asked = []

    def free(number):
        asked.append(number)
        return 10 * GIB

    assert read_budget("cuda:3", free_on_gpu=free).total == 10 * GIB
    assert read_budget("cuda", free_on_gpu=free).total == 10 * GIB
    assert asked == [3, 0]


def test_a_gpu_without_anything_free_has_nothing_to_give():
    assert read_budget("cuda:0", free_on_gpu=lambda _: 100 * MIB).usable == 0


def test_pytorch_is_asked_for_what_is_free(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda number: ((number + 1) * GIB, 80 * GIB))
    assert (read_free_bytes(0), read_free_bytes(1)) == (GIB, 2 * GIB)
    with pytest.raises(ValueError, match=r"plan: cuda:2 must exist, got 2 GPUs\. Give a size such as 24GiB"):
        read_free_bytes(2)


def test_this_machine_has_memory_and_keeps_some():
    budget = read_budget("ram")
    assert 0 < budget.usable < budget.total


@pytest.mark.parametrize(
    "text", ["", "many", "24", "GiB", "-1GiB", "0GB", "cuda:x", "1e400GiB", "nanGB", "infGB", "9" * 400 + "GB"]
)
def test_words_that_name_nothing_are_refused(text):
    with pytest.raises(
        ValueError, match=r"plan: --budget must be a size such as 24GiB, .*, or the name of a GPU"
    ) as caught:
        read_budget(text)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("size", "text"), [(5, "5 B"), (1536, "1.50 KiB"), (3 * MIB, "3.00 MiB"), (200 * GIB, "200 GiB")]
)
def test_bytes_are_shown_as_people_read_them(size, text):
    assert show_bytes(size) == text
