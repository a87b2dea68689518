import pytest
import torch

from fastnas.data import Batch
from fastnas.training.numerics import evaluate

BATCHES = [Batch(torch.eye(3), torch.tensor([0, 1, 1])), Batch(torch.eye(3)[:1], torch.tensor([0]))]
CPU = torch.device("cpu")


def test_means_weigh_every_image_alike():
    means = evaluate(lambda images: 100 * images, BATCHES, CPU)
    assert means.accuracy == 3 / 4
    assert means.loss == pytest.approx(100 / 4)


def test_a_loss_that_is_no_number_is_named_with_its_likely_cause():
    with pytest.raises(
        FloatingPointError, match=r"evaluation: the loss after the epoch must be finite, got nan\. .*lower"
    ):
        evaluate(lambda images: images * float("nan"), BATCHES, CPU)
