import pytest

from fastnas.memory.scaling import Pieces, list_counts, scale

PIECES = Pieces(fixed=0.0, per_image=1e-3, num_bytes=4_000_000, messages=3, images=1024, bandwidth=1e9, latency=0.0)


def changed(**values):
    return Pieces(**{**PIECES.__dict__, **values})


def test_without_an_exchange_and_with_nothing_fixed_n_processes_are_n_times_as_fast():
    found = list(scale(changed(num_bytes=0), 512, [1, 2, 64]))
    assert [one.speedup for one in found] == pytest.approx([1, 2, 64])
    assert {one.limit for one in found} == {"compute"}


def test_a_ring_sends_almost_twice_the_bytes_whatever_its_length():
    alone, two, many = scale(PIECES, 512, [1, 2, 64])
    assert alone.exchange == 0
    assert two.exchange == pytest.approx(4e-3)
    assert many.exchange == pytest.approx(2 * 63 / 64 * 4e-3)
    assert many.seconds == pytest.approx(8e-3 + many.exchange)


def test_latency_grows_with_the_ring():
    two, four = scale(changed(num_bytes=0, latency=1e-4), 512, [2, 4])
    assert (two.exchange, four.exchange) == pytest.approx((2 * 3 * 1e-4, 6 * 3 * 1e-4))


def test_what_is_fixed_bounds_the_speedup():
    (found,) = scale(changed(fixed=0.1, num_bytes=0), 512, [64])
    assert found.speedup == pytest.approx((0.1 + 0.512) / (0.1 + 0.008))


def test_a_loader_that_is_slower_than_the_step_decides():
    slow, fast = (next(scale(changed(images_per_core=rate, cores=4), 512, [8])) for rate in (100, 10_000))
    assert (slow.limit, fast.limit) == ("loading", "compute")
    assert slow.seconds == pytest.approx(1024 / (8 * 4 * 100))


def test_counts_are_powers_of_two_and_the_whole_machine():
    assert list_counts(8, 3, 96) == [1, 2, 4, 8, 16, 24]
    with pytest.raises(ValueError, match="scaling: batch_size must be a multiple of the 24 processes, got 100"):
        list_counts(8, 3, 100)


@pytest.mark.parametrize("values", [{"bandwidth": 0}, {"per_image": 0}, {"images_per_core": -1}])
def test_pieces_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match=r"scaling: .* must be positive"):
        changed(**values)
