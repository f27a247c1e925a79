"""Builds the wheel's hot modules as C extensions, with mypyc, when ``STREAMPROXY_COMPILE=1`` asks for it.

The source is the same, and the wheel holds it too. Without the variable, or with 0, the wheel is pure Python and needs
no compiler: what an installation gives must not depend on what happens to be installed beside it. Editable
installations are always pure, since a changed file would not be what runs.

The package's description is README.md with links that lead from the package index into the repository.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

VARIABLE = "STREAMPROXY_COMPILE"
SYMBOLS = "STREAMPROXY_SYMBOLS"  # 1 keeps the names of functions in the library, for profilers
HOT_FUNCTIONS = "hot_functions.txt"  # the functions in C that requests and events run, written by benchmarks.hot
GROUP = "streamproxy"  # all modules share one library, streamproxy__mypyc: within it calls are calls in C


def wanted() -> bool:
    """Whether to compile. Raises ValueError for a value that is neither yes nor no."""
    value = os.environ.get(VARIABLE, "0")
    if value not in ("0", "1"):
        raise ValueError(f"{VARIABLE} is {value!r}: it is 1 to compile the hot modules, 0 or unset for pure Python")
    return value == "1"


class CompileHook(BuildHookInterface):  # type: ignore[type-arg]
    """``modules`` of its section in pyproject.toml are compiled."""

    def dependencies(self) -> list[str]:
        """mypyc checks types while it compiles, so that it needs what the modules import, too."""
        if not wanted():
            return []
        return [*self.config["build-requires"], *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the extensions into the wheel, which is then one of this platform."""
        if version == "editable" or not wanted():
            return
        # Not removed before the wheel is written: `finalize` comes after that.
        self._directory = TemporaryDirectory(prefix="streamproxy-compile-")
        built = Path(self._directory.name)
        previous = Path.cwd()
        os.chdir(self.root)  # module names follow from paths
        try:
            compile_modules(self.config["modules"], built)
        finally:
            os.chdir(previous)
        library = built / "lib"
        for file in sorted(path for path in library.rglob("*") if path.is_file()):
            build_data["force_include"][str(file)] = str(file.relative_to(library))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what lay between."""
        directory = getattr(self, "_directory", None)
        if directory is not None:
            directory.cleanup()


class DescriptionHook(MetadataHookInterface):
    """Sets ``readme``: README.md with absolute links."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        described = absolute_links(text, metadata["urls"]["Source"])
        metadata["readme"] = {"content-type": "text/markdown", "text": described}


def absolute_links(text: str, source: str) -> str:
    """Return Markdown whose relative links lead into the repository at the URL ``source``; pictures are raw files."""

    def link(match: re.Match[str]) -> str:
        kind = "raw" if match[1] == "!" else "blob"
        return f"{match[1]}[{match[2]}]({source}/{kind}/main/{match[3]})"

    return re.sub(r"(!?)\[([^]]+)\]\((?!https?://|#)([^)]+)\)", link, text)


def compile_modules(modules: list[str], directory: Path) -> None:
    """Compile modules, given as paths, to extensions under ``lib`` in a directory. Raises SystemExit on an error."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    # Types have been checked where everything is installed; here are no extras, and nobody's cache.
    options = [
        "--config-file=",
        "--ignore-missing-imports",
        "--follow-imports=silent",
        f"--cache-dir={directory}/cache",
    ]
    extensions = mypycify(
        [*options, *modules],
        opt_level="2",
        debug_level="0",
        group_name=GROUP,
        multi_file=True,
        target_dir=str(directory / "c"),
    )
    if sys.platform == "linux":
        mark_hot(directory / "c", set(Path(HOT_FUNCTIONS).read_text(encoding="utf-8").split()))
        for extension in extensions:
            # Python needs one function of each extension, which its headers export. The names of all others would be a
            # tenth of the library, and their calls would go through a table. C code is never unwound.
            extension.extra_compile_args += ["-fvisibility=hidden", "-fno-asynchronous-unwind-tables"]
            # Nothing here is a tight loop, and what is put before jumps and loops is a tenth of the code.
            extension.extra_compile_args += ["-falign-jumps=1", "-falign-labels=1", "-falign-loops=1"]
            # Of mypyc's own functions the library holds only those that it calls.
            extension.extra_compile_args.append("-ffunction-sections")
            extension.extra_link_args.append("-Wl,--gc-sections")
            if os.environ.get(SYMBOLS) != "1":
                extension.extra_link_args.append("-Wl,-s")
    command = Distribution({"name": GROUP, "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib = str(directory / "lib")
    command.build_temp = str(directory / "objects")
    command.parallel = os.cpu_count()
    command.ensure_finalized()
    command.run()


# A definition in the C of mypyc: its type is before its name, on the same line or on the one before.
_DEFINITION = re.compile(r"^((?:static [\w *]+\n)?(?:[\w *]+[ *])?(\w+)\([^;{}]*\)\s*\{)", re.MULTILINE)


def mark_hot(directory: Path, names: set[str]) -> int:
    """Mark the functions with these names in the C files of a directory, so that they lie side by side in the library.

    What a request runs is a tenth of the code. Spread over all of it, its pages are three times as many, and the first
    request after a pause waits for each. A name that is not there has no effect. Returns how many were marked.
    """
    marked = 0

    def mark(found: re.Match[str]) -> str:
        nonlocal marked
        if found[2] not in names:
            return found[1]
        marked += 1
        return f"__attribute__((hot)) {found[1]}"

    for file in sorted(directory.glob("*.c")):
        file.write_text(_DEFINITION.sub(mark, file.read_text(encoding="utf-8")), encoding="utf-8")
    return marked
