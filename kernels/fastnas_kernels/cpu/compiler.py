"""Compiles the C++ sources for this machine, once, and keeps the result where other processes find it."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

SOURCES = Path(__file__).parent / "source"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-shared",
    "-fPIC",
)


class NoCompiler(RuntimeError):
    """Nothing on this machine compiles the sources; the message says what was tried."""


@lru_cache
def library(real: str, channels: int, dual: bool = False) -> ctypes.CDLL:
    """The compiled kernels for one type of numbers and about so many channels.

    Compiled at first use by ``$CXX``, ``c++``, ``g++`` or ``clang++`` into ``$XDG_CACHE_HOME/fastnas`` (by default
    ``~/.cache/fastnas``), under a name that depends on sources, flags, compiler and processor.

    Args:
        real: ``float`` or ``double``.
        channels: 4, 8 or 16: vectors hold so many channels if they are that long.
        dual: Whether every number has a tangent.

    Returns:
        The loaded library.

    Raises:
        NoCompiler: If there is no compiler, or it fails.
    """
    compiler = _compiler()
    flags = (*FLAGS, f"-DREAL={real}", f"-DCHANNELS={channels}", *(("-DDUAL",) if dual else ()))
    folder = _cache_folder()
    path = folder / f"cell-{_key(compiler, flags)}.so"
    if not path.exists():
        _compile(compiler, flags, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoCompiler(f"{path} cannot be loaded: {error}") from None


def _compiler() -> str:
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise NoCompiler(f"no C++ compiler was found ({chosen or ', '.join(COMPILERS)})")


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastnas"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(_folder_of_this_process())


@lru_cache
def _folder_of_this_process() -> str:
    return tempfile.mkdtemp(prefix="fastnas-")


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    parts = [source.read_bytes() for source in sorted(SOURCES.iterdir())]
    parts += [" ".join(flags).encode(), _output(compiler, "--version").encode(), _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    facts = ("model name", "cpu family", "model", "flags", "Features", "CPU part")
    first = {name: value for name, _, value in (line.partition(":") for line in reversed(lines))}
    return "\n".join(value for name, value in first.items() if name.strip() in facts)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> None:
    """Write the library under another name first: whoever looks for ``path`` finds all of it or nothing."""
    handle, unfinished = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    failures = []
    try:
        for threads in (_openmp(), ()):
            command = [compiler, *flags, *threads, str(SOURCES / "cell.cpp"), "-o", unfinished]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                os.replace(unfinished, path)
                return
            failures.append(done.stderr.strip())
        raise NoCompiler(f"{compiler} failed: {failures[-1][:500]}")
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _openmp() -> tuple[str, ...]:
    """OpenMP, by the library that PyTorch has loaded: two of them would compete for the same cores."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return ("-fopenmp",)
    loaded = sorted({line.split(maxsplit=5)[-1] for line in mapped if "/libgomp" in line})
    return ("-fopenmp", *loaded[:1])
