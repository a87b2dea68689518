import gzip

import pytest

from fastnas.spaces.benchmark import look_up, read_table
from fastnas.spaces.cell_space import NASBENCH201
from fastnas.spaces.formats import genotype_to_text
from fastnas.spaces.sampling import random_genotype

A, B, C = (random_genotype(NASBENCH201, seed) for seed in range(3))


def write(path, genotypes=((A, 90), (B, 80))):
    rows = "".join(f"0,{genotype_to_text(g)},1,{accuracy}\n" for g, accuracy in genotypes)
    with gzip.open(path, "wt") as file:
        file.write("index,architecture,valid,test\n" + rows)
    return path


def test_finds_accuracy_rank_and_regret(tmp_path):
    entry = look_up(read_table(write(tmp_path / "t.csv.gz")), B)
    assert (entry.column, entry.accuracy, entry.rank, entry.size, entry.regret, entry.mean) == (
        "test",
        80,
        2,
        2,
        10,
        85,
    )
    assert "rank 2 of 2, regret 10.00 points" in str(entry)


def test_says_what_is_wrong_with_a_table(tmp_path):
    table = write(tmp_path / "t.csv.gz")
    with pytest.raises(ValueError, match="must know the architecture"):
        look_up(read_table(table), C)
    with pytest.raises(ValueError, match="must have the columns architecture and nope"):
        read_table(table, "nope")
    with pytest.raises(ValueError, match="file must exist"):
        read_table(tmp_path / "missing.csv")
    (tmp_path / "bad.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="must be a CSV file"):
        read_table(tmp_path / "bad.csv.gz")


@pytest.mark.parametrize("accuracy", ["nan", "inf", "=1+1", "", "ninety", "-1", "101", "1e400"])
def test_an_accuracy_that_is_no_number_is_refused(tmp_path, accuracy):
    table = write(tmp_path / "t.csv.gz", ((A, 90), (B, accuracy)))
    with pytest.raises(ValueError, match=r"t.csv.gz, line 3, must have an accuracy in percent as test, got"):
        read_table(table)
