"""The command line: one file a verb, and what is printed."""


def main() -> int:
    """Run one command; returns the exit status."""
    from fastnas.cli.main import main  # noqa: PLC0415  (imports PyTorch)

    return main()
