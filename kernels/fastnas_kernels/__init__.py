"""The tensor operations of fastnas: knows tensors, not architectures."""
