"""Bilevel problems and their hypergradients: useful without architecture search."""
