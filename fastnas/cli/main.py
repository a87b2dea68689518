"""The command line: it finds the verb, runs it, and says in one line what went wrong."""

import ast
import errno
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fastnas

VERBS = (
    "search",
    "retrain",
    "predict",
    "evaluate",
    "export",
    "compare",
    "pack",
    "report",
    "plan",
    "methods",
    "check",
    "show",
    "profile",
    "latency",
    "index",
    "shards",
)
LONGEST = 1200  # characters of a line that says what is wrong
USAGE = 2  # the exit status of a command line that spells no command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "--help-all", "help"):
        print(overview())
        return 0
    if verb == "--version":
        print(f"fastnas {fastnas.__version__}")
        return 0
    if verb == "--completion":
        from fastnas.cli.completion import write_completion  # noqa: PLC0415

        print(write_completion(VERBS, heading))
        return 0
    if verb not in VERBS:
        from fastnas.cli.options import quote_briefly  # noqa: PLC0415
        from fastnas.errors import suggest  # noqa: PLC0415

        print(f"fastnas: there is no command {quote_briefly(verb)!r}. {suggest(verb, VERBS)}", file=sys.stderr)
        return USAGE
    return _run(verb, arguments[1:])


def overview() -> str:
    """What ``fastnas --help`` prints; nothing is imported for it."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {_summary(verb)}" for verb in VERBS]
    head = "Differentiable architecture search: the DARTS family in one engine. `fastnas search` alone does it all."
    tail = "fastnas COMMAND --help says what each takes; fastnas --version; fastnas --completion for bash and zsh"
    return "\n".join(["usage: fastnas COMMAND [options]", "", head, "", *lines, "", tail])


def parse(arguments: list[str]) -> Any:
    """The command that the arguments spell, its defaults taken from the recipe that they name."""
    from fastnas.cli import options  # noqa: PLC0415

    verb = import_module(f"fastnas.cli.{arguments[0]}")
    default = options.default_command(verb, arguments[1:])
    return options.parse(arguments[0], default, arguments[1:], heading, getattr(verb, "FIRST", ()))


HEADINGS = {
    "DataConfig": "data",
    "ImageOptions": "data",
    "NetworkSize": "the network",
    "CostConfig": "costs",
    "LadderConfig": "selection",
    "Techniques": "techniques",
    "TrainingSetup": "training",
}


def heading(owner: str, flag: str) -> str:
    """The heading under which help lists an option."""
    if flag.startswith("retrain.") or owner == "RetrainConfig":
        return "retraining"
    if owner == "SearchConfig":
        if flag.startswith("alpha"):
            return "alpha"
        if flag.startswith("weight-") or flag in ("momentum", "nesterov", "grad-clip"):
            return "weights"
        is_setup = flag in ("seed", "train-fraction", "max-broken", "precision", "device", "workers")
        return "training" if is_setup else "search"
    if owner == "Experiment":
        return "data" if flag == "data" else "search"
    return HEADINGS.get(owner, "run")


def _summary(verb: str) -> str:
    spec = find_spec("fastnas.cli")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name(f"{verb}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def _run(verb: str, arguments: list[str]) -> int:
    import torch  # noqa: PLC0415  (two seconds, which --help need not wait for)

    from fastnas.cli.options import UsageError  # noqa: PLC0415
    from fastnas.errors import Unavailable, complaint  # noqa: PLC0415
    from fastnas.experiment.progress import SafeConsole  # noqa: PLC0415
    from fastnas.ranks import place_in_environment  # noqa: PLC0415

    warnings.filterwarnings("always", category=RuntimeWarning, module="fastnas")
    warnings.formatwarning = _format_warning
    # PyTorch's own dual numbers, which second order goes through, say it of themselves
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
    name = "fastnas"
    try:
        ranks = place_in_environment()
        name = name if ranks.size == 1 else f"fastnas, rank {ranks.index}"
        command = parse([verb, *arguments])
        succeeded = import_module(f"fastnas.cli.{verb}").run(command, SafeConsole(quiet=not ranks.is_first))
    except SystemExit as exit:  # help was printed
        return exit.code if isinstance(exit.code, int) else 1
    except KeyboardInterrupt:
        # The first line printed names the run folder, and how to go on
        _say("fastnas: interrupted. Everything up to the last checkpoint is kept.")
        return 130
    except UsageError as error:
        _say(str(error))
        return USAGE
    except (ValueError, FloatingPointError, Unavailable, torch.OutOfMemoryError, OSError, RecursionError) as error:
        _say(f"{name}: {_explain(error)}")
        return 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        remedy = "Take fewer channels, cells or images a batch, or smaller images; `fastnas plan` says what fits."
        _say(f"{name}: {complaint('memory', 'what runs must fit into memory', _first_words(error), remedy)}")
        return 1
    return 1 if succeeded is False else 0


def _format_warning(message: Warning | str, category: type[Warning], file: str, line: int, text: Any = None) -> str:
    """A warning of ours in one line without the place that gave it."""
    is_ours = f"{Path(fastnas.__file__).parent}" in file and issubclass(category, RuntimeWarning)
    where = "fastnas: note" if is_ours else f"{file}:{line}: {category.__name__}"
    return f"{where}: {_printable(str(message))}\n"


def _say(text: str) -> None:
    """One line of printable characters, whatever the names in it hold."""
    print(_printable(text), file=sys.stderr)


def _printable(text: str) -> str:
    line = " ".join(text.split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 4 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def _first_words(error: BaseException) -> str:
    """What the allocator says, without the place in its source."""
    text = " ".join(str(error).split()).rpartition("] ")[2]
    return text[:100].rstrip(".") or "more than there is"


def _explain(error: Exception) -> str:
    from fastnas.errors import complaint  # noqa: PLC0415

    if isinstance(error, OSError) and error.strerror and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "What was saved before is whole: free some space and go on with --resume."
        return complaint("disk", "there must be room for the run's files", error.strerror, remedy)
    if isinstance(error, OSError) and str(error).startswith("[Errno") and error.filename is not None:
        return complaint("files", f"{error.filename} must be a usable name", error.strerror or "an error")
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
