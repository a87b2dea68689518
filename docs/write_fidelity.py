"""The page ``docs/fidelity.md``: ``python -m docs.write_fidelity > docs/fidelity.md``; a test compares it."""

from docs.fidelity import ASPECTS, FIDELITY, Claim

_INTRODUCTION = """\
# Fidelity

How each method stands to what was published. *Code*: equal to the official code. *Paper*: to the paper's text.
*Differs*: on purpose, or as far as we got. Numbers lead to the notes below, which say what differs and name the test
behind each claim. The tests hold a short reference of each official step, written from its equations. Where a note
names `official.py`, whole steps were also made beside the authors' code itself, in float64, and genotypes derived:
`profiling/results/official.md` says what came out. Rates, epochs and augmentations are settings of a run: see
`fastnas/experiment/recipes.py`.

Searches by `snas`, `nasp`, `dso_nas` and `proxyless_nas` do not repeat those of fastnas 0.1.0: they drop paths, begin
near 0.5, clip elements of gradients, and begin with the paper's weights. From equal weights `proxyless_nas` finds
the same logits as before.
"""
_TECHNIQUES = """\
## Techniques

Each is an option of any method for which it has a meaning; elsewhere it is refused with the reason. In Python they are
fields of `fastnas.methods.variants.Techniques`, or parts of a {py:class}`fastnas.Method`.
"""

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


def write_page() -> str:
    """The text of ``docs/fidelity.md``."""
    notes: dict[Claim, int] = {}
    rows = []
    for name, row in FIDELITY.items():
        cells = [f"{row[aspect].kind} {notes.setdefault(row[aspect], len(notes) + 1)}" for aspect in ASPECTS]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    lines = [_INTRODUCTION, f"| method | {' | '.join(ASPECTS)} |", "| --- |" + " --- |" * len(ASPECTS), *rows, ""]
    lines += ["## Notes", "", *(f"{number}. {_note(claim)}" for claim, number in notes.items()), ""]
    lines += [_TECHNIQUES, "| technique | options | from |", "| --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in TECHNIQUES]
    return "\n".join(lines) + "\n"


def _note(claim: Claim) -> str:
    kinds = {"code": "Equal to the official code", "paper": "To the paper's text", "differs": "Differs"}
    text = f": {claim.text}" if claim.text else ""
    runs = {f"tests/{claim.test}": claim.test, f"official.py --method {claim.official}": claim.official}
    by = "; ".join(f"`{run}`" for run, given in runs.items() if given)
    return f"{kinds.get(claim.kind, 'Not verifiable')}{text}{f' ({by})' * bool(by)}."


if __name__ == "__main__":
    print(write_page(), end="")
