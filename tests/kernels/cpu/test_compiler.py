import itertools
import os
import stat
import warnings
from pathlib import Path

import pytest

from fastnas_kernels.cpu import compiler
from fastnas_kernels.cpu.compiler import NoCompiler, library


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty cache, and nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.cache_clear()
    yield tmp_path / "cache" / "fastnas"
    library.cache_clear()


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """A compiler that notes its calls and writes an empty file, or fails."""

    def install(script):
        path = tmp_path / "stub"
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(path))
        return tmp_path / "calls"

    return install


COMPILES = 'for last; do true; done; [ "$1" = --version ] || echo > "$last"'


def test_what_was_compiled_is_found_by_the_next_process(folder, stub, monkeypatch):
    calls = stub(COMPILES)
    loaded = []
    monkeypatch.setattr(compiler.ctypes, "CDLL", lambda path: loaded.append(path) or len(loaded))
    library("float", 16)
    library.cache_clear()  # as in another process
    library("float", 16)
    assert loaded[0] == loaded[1]
    assert [Path(loaded[0])] == list(folder.iterdir())  # and nothing unfinished beside it
    assert sum("-DREAL=float" in line for line in calls.read_text().splitlines()) == 1


def test_other_numbers_channels_and_tangents_are_other_libraries(folder, stub, monkeypatch):
    stub(COMPILES)
    monkeypatch.setattr(compiler.ctypes, "CDLL", lambda path: path)
    choices = itertools.product(("float", "double"), (4, 8, 16), (False, True))
    assert len({library(*choice) for choice in choices}) == 12


@pytest.mark.parametrize("change", ["_processor", "SOURCES", "FLAGS"])
def test_another_processor_source_or_flag_is_another_library(folder, stub, monkeypatch, tmp_path, change):
    stub(COMPILES)
    monkeypatch.setattr(compiler.ctypes, "CDLL", lambda path: path)
    before = library("float", 16)
    library.cache_clear()
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "cell.cpp").write_text("int other;")
    other = {"_processor": lambda: "another", "SOURCES": sources, "FLAGS": ("-O0",)}
    monkeypatch.setattr(compiler, change, other[change])
    assert library("float", 16) != before


def test_a_failure_is_reported_and_leaves_nothing_behind(folder, stub):
    stub('[ "$1" = --version ] && exit 0; echo "cannot do that" >&2; exit 1')
    with pytest.raises(NoCompiler, match="cannot do that"):
        library("float", 16)
    assert list(folder.iterdir()) == []


def test_without_openmp_it_is_compiled_for_one_thread(folder, stub, monkeypatch):
    calls = stub(f'case "$*" in *-fopenmp*) exit 1;; esac; {COMPILES}')
    monkeypatch.setattr(compiler.ctypes, "CDLL", lambda path: path)
    library("float", 16)
    assert ["-fopenmp" in line for line in calls.read_text().splitlines()] == [False, True, False]


def test_what_cannot_be_loaded_is_no_compiler(folder, stub):
    stub(COMPILES)
    with pytest.raises(NoCompiler, match="cannot be loaded"):
        library("float", 16)


def test_no_compiler_is_said_by_name(folder, monkeypatch):
    monkeypatch.setenv("CXX", "nowhere")
    with pytest.raises(NoCompiler, match=r"no C\+\+ compiler was found \(nowhere\)"):
        library("float", 16)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoCompiler, match=r"no C\+\+ compiler was found \(c\+\+, g\+\+, clang\+\+\)"):
        library("float", 16)


def test_a_cache_that_cannot_be_written_is_replaced_by_a_folder_of_the_process(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = compiler._cache_folder()
    assert os.access(first, os.W_OK)
    assert first == compiler._cache_folder()


@pytest.mark.parametrize("dual", [(), ("-DDUAL",)])
def test_the_sources_compile_without_a_warning(tmp_path, dual):
    flags = (*compiler.FLAGS, "-Wall", "-Wextra", "-Werror", "-O1", "-DREAL=float", "-DCHANNELS=4", *dual)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiler._compile(compiler._compiler(), flags, tmp_path / "cell.so")
    assert (tmp_path / "cell.so").stat().st_size > 0
