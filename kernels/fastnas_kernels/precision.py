"""In what numbers are added up."""

import torch


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and statistics of numbers of ``dtype``: float32, and float64 for float64."""
    return torch.promote_types(dtype, torch.float32)
