"""Genotypes and the spaces that they come from: plain frozen data, no tensors."""
