"""Networks built of a genotype, to be trained from scratch."""
