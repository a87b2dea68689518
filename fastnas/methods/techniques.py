"""The techniques that are options of any method: the data behind the second table of ``docs/fidelity.md``."""

TECHNIQUES: tuple[tuple[str, str, str], ...] = (
    ("early stopping by the eigenvalue", "`--stop eigenvalue`, `eigenvalue_code`, `eigenvalue_ada`", "RobustDARTS"),
    ("early stopping by skip connections", "`--stop skips`", "DARTS+"),
    ("early stopping by a stable ranking", "`--stop rank`", "DARTS+"),
    ("pre-training of the weights", "`--warmup-epochs`", "P-DARTS, PC-DARTS"),
    ("parallel runs and the best of them", "`--runs`, `--strengths`", "DARTS, R-DARTS"),
    ("split of the images", "`--weight-share`, `--fractions`, `--index`", "DARTS"),
    ("second order", "`--order 2`", "DARTS"),
    (
        "cosine power, restarts, bold driver",
        "`--weight-schedule cosine_power`, `restarts`, `bold_driver`",
        "sharpDARTS",
    ),
    ("L2", "`--weight-decay`, `--alpha-weight-decay`", "RobustDARTS"),
    ("L1", "`--l1`", "DSO-NAS"),
    ("drop-path", "`--drop-path`", "RobustDARTS, SNAS"),
    ("cutout", "`--cutout`", "RobustDARTS"),
    ("augmentation of the search", "`--augment`, `--colour`", "sharpDARTS"),
    ("smoothing of alpha", "`--smoothing random`, `adversarial`", "SmoothDARTS"),
    ("dropout on operations, with decay", "`--skip-dropout`", "P-DARTS"),
    ("reset of surplus identities", "`--skip-cap`", "P-DARTS"),
    ("edge normalisation", "`--edge-normalisation`", "PC-DARTS"),
    ("partial channels", "`--partial-channels`", "PC-DARTS"),
    ("annealing of the temperature", "`--temperature`", "SNAS, ASAP"),
    ("sparsity", "`--sparsity`", "DSO-NAS"),
    ("proximal steps", "`--proximal`", "NASP"),
    ("costs", "`--cost.of` with `--cost.penalty` or `--cost.limit`", "SNAS, ProxylessNAS"),
    ("decay of the logits", "`--beta-decay`", "beta-DARTS"),
    ("auxiliary skip connections", "`--auxiliary-skip`", "DARTS-"),
    ("selection by evaluation", "`--select ladder`, `perturbation`, `evolution`", "SPOS, DARTS-PT"),
)
"""A technique, the options that give it to any method, and where it comes from."""
