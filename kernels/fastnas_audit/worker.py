"""The process that compiles kernels for :mod:`fastnas_audit.elsewhere`; reads jobs, writes results, pickled."""

import functools
import importlib.util
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType

from triton.errors import TritonError
from triton.runtime.jit import JITFunction

from fastnas_audit.assembly import Assembly, audit, compile_for
from fastnas_audit.elsewhere import Failure, Job, Reference


def module_of(reference: Reference) -> ModuleType:
    """Import the file of ``reference``: under its name where that leads to the file, else (a script, a test) alone."""
    if reference.module in sys.modules and reference.module != "__main__":
        return sys.modules[reference.module]
    if _is_importable(reference):
        return importlib.import_module(reference.module)
    name = reference.module if reference.module != "__main__" else Path(reference.file).stem
    spec = importlib.util.spec_from_file_location(name, reference.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _is_importable(reference: Reference) -> bool:
    if reference.module == "__main__":
        return False
    try:
        spec = importlib.util.find_spec(reference.module)
    except ModuleNotFoundError:  # of a package above it
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).samefile(reference.file)


def kernel_of(reference: Reference) -> JITFunction:
    """The kernel that ``reference`` names, without autotuners and heuristics around it."""
    kernel = functools.reduce(getattr, reference.name.split("."), module_of(reference))
    while not isinstance(kernel, JITFunction):
        kernel = kernel.fn
    return kernel


def result_of(job: Job) -> Assembly | Failure:
    """Compile and audit ``job``; what the compiler refuses is a result, too."""
    kernel = kernel_of(job.kernel)
    try:
        compiled = compile_for(
            kernel=kernel,
            signature=job.signature,
            constants=job.constants,
            target=job.target,
            num_warps=job.num_warps,
            num_stages=job.num_stages,
            maxnreg=job.maxnreg,
            divisible_by_16=job.divisible_by_16,
        )
    except (TritonError, RuntimeError) as error:  # a pass of LLVM fails with the latter
        return Failure(f"{type(error).__name__}: {str(error).strip()[-1000:]}")
    return audit(compiled)


def main() -> None:
    """Answer the jobs on standard input one by one on standard output, which the compiler shall not write to."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for job in pickle.load(sys.stdin.buffer):
        pickle.dump(result_of(job), answers)
        answers.flush()


if __name__ == "__main__":
    main()
