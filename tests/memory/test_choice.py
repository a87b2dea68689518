"""The dynamic programme against all plans there are."""

from itertools import product
from random import Random

import pytest

from fastnas.memory.choice import find_cheapest
from fastnas.memory.segments import Pass

WORDS = ("none", "edges", "cell")


def make(kept, extra, base=1000, head=0):
    """A pass from what its segments keep and need."""
    made = Pass(base)
    for k, e in zip(kept, extra, strict=True):
        made.needs.append((made.after[-1] if made.after else base) + e)
        made.after.append((made.after[-1] if made.after else base) + k)
    made.head = made.after[-1] + head
    return made


def random_profiles(rng, segments, passes=2):
    profiles = {word: [] for word in WORDS}
    for _ in range(passes):
        kept = {"none": [rng.randint(50, 200) for _ in range(segments)]}
        kept["edges"] = [rng.randint(10, k // 3) for k in kept["none"]]
        kept["cell"] = [rng.randint(1, k // 5) for k in kept["none"]]
        extra = {
            "none": [k + rng.randint(1, 40) for k in kept["none"]],
            "edges": [k + rng.randint(10, 60) for k in kept["edges"]],
            "cell": [k + rng.randint(20, 60) for k in kept["none"]],
        }
        for word in WORDS:
            profiles[word].append(make(kept[word], extra[word], head=rng.randint(0, 20)))
    return profiles


def needs(profiles, words):
    """The peak of a plan without joined segments, by the definition."""
    peaks = []
    for number, first in enumerate(profiles["none"]):
        alive = min(profiles[word][number].base for word in WORDS)
        for unit, word in enumerate(words):
            of_word = profiles[word][number]
            peaks.append(alive + of_word.extra(unit))
            alive += of_word.kept(unit)
        peaks.append(alive + first.head - first.after[-1])
    return max(peaks)


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_is_faster_within_the_budget(seed):
    rng = Random(seed)
    profiles, seconds = random_profiles(rng, 5), [rng.uniform(0.5, 2) for _ in range(5)]
    plans = list(product(WORDS, repeat=5))
    peaks = {words: needs(profiles, words) for words in plans}
    time = {words: sum(s for s, word in zip(seconds, words, strict=True) if word != "none") for words in plans}
    for budget in sorted(peaks.values())[:: len(plans) // 6]:
        found = find_cheapest(profiles, seconds, budget)
        # bytes are rounded up by less than a part in 512 a unit: a plan that fits with that much to spare must be found
        strict = [time[words] for words in plans if peaks[words] * (1 + 6 / 512) <= budget]
        if strict:
            assert found is not None
            assert found.seconds <= min(strict) + 1e-9
        if found is not None and "joined" not in found.words:
            assert peaks[found.words] <= budget
            assert found.seconds == pytest.approx(time[found.words])


def test_a_budget_for_everything_evaluates_nothing_again():
    profiles = random_profiles(Random(0), 4)
    assert find_cheapest(profiles, [1.0] * 4, 10**6) == (0.0, ("none",) * 4)


def test_nothing_fits_into_nothing():
    assert find_cheapest(random_profiles(Random(0), 4), [1.0] * 4, 1000) is None


def test_units_are_joined_where_their_inputs_are_too_many():
    segments = 9
    profiles = {
        "none": [make([100] * segments, [110] * segments)],
        "edges": [make([90] * segments, [110] * segments)],
        "cell": [make([60] * segments, [110] * segments)],
    }
    # cell by cell the inputs alone are 9 x 60; in three groups of three they are 3 x 60 or so, and a group is 300
    apart = find_cheapest({word: profiles[word] for word in WORDS}, [1.0] * segments, 1000 + 8 * 60 + 110 + 10)
    joined = find_cheapest(profiles, [1.0] * segments, 1000 + 8 * 60)
    assert apart is not None
    assert joined is not None
    assert "joined" in joined.words
