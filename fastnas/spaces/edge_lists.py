"""Which primitives the edges of a space have, where they differ (``spaces.py`` of the authors' code)."""

SHORT = {
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}
S1_NORMAL = (
    "skip/dil3 skip/dil5 skip/dil5 skip/sep3 skip/dil3 max/skip skip/sep3 "
    "skip/sep3 skip/dil3 skip/sep3 max/skip skip/dil3 dil3/dil5 dil3/dil5"
)
S1_REDUCTION = (
    "max/avg max/dil3 max/avg max/avg skip/dil5 max/avg max/sep3 "
    "skip/dil3 skip/dil5 max/avg max/avg skip/dil5 skip/dil5 skip/dil5"
)

S1_PRIMITIVES = tuple(SHORT.values())
S1_EDGES = tuple(
    tuple(tuple(SHORT[word] for word in pair.split("/")) for pair in pairs.split())
    for pairs in (S1_NORMAL, S1_REDUCTION)
)
"""Zela et al., 2020, arXiv:1909.09656: of the normal and of the reduction cell, in the order of alpha's rows."""
