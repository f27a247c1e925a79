"""The files of a release: what is inside, how large they are, what they say of themselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from streamproxy import __version__
from tests.release.conftest import Dist, clean_environment
from tests.unit.project.dockerfile import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
MODULES: list[str] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]
LARGEST = 3_000_000  # bytes
INFO = f"streamproxy-{__version__}.dist-info/"


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def metadata(wheel: Path) -> Message:
    return message_from_bytes(zipfile.ZipFile(wheel).read(f"{INFO}METADATA"))


def tracked() -> set[str]:
    """The files of the repository, or of the sdist that these tests came in."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    pytest.skip("this is no repository")


def test_every_file_has_the_version_in_its_name(dist: Dist) -> None:
    assert all(file.name.startswith(f"streamproxy-{__version__}") for file in (dist.sdist, dist.pure, dist.compiled))


def test_no_file_is_large(dist: Dist) -> None:
    sizes = {file.name: file.stat().st_size for file in (dist.sdist, dist.pure, dist.compiled)}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}


def test_the_index_takes_them(dist: Dist) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(dist.sdist), str(dist.pure), str(dist.compiled)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 3


def test_the_sdist_has_all_that_the_repository_has_and_nothing_else(dist: Dist) -> None:
    with tarfile.open(dist.sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held - {"PKG-INFO"} == tracked()
    assert {"docs/README.md", "config/full.yaml", "tests/conftest.py", "Makefile"} <= held


def test_the_pure_wheel_has_the_package_and_nothing_else(dist: Dist) -> None:
    package = {name for name in tracked() if name.startswith("streamproxy/")}
    assert {name for name in names(dist.pure) if not name.startswith(INFO)} == package


def test_the_compiled_wheel_adds_an_extension_for_each_hot_module_and_one_library(dist: Dist) -> None:
    added = names(dist.compiled) - names(dist.pure)
    modules = {re.sub(r"(/__init__)?\.[\w-]+\.so$", "", name) for name in added}
    libraries = {name for name in modules if name.endswith("__mypyc")}
    assert modules - libraries == {module.removesuffix(".py") for module in MODULES}
    assert len(libraries) == 1
    assert names(dist.pure) <= names(dist.compiled)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS resolves the calls of a library without a table")
def test_the_library_exports_nothing_that_only_its_own_files_call(dist: Dist) -> None:
    (library,) = [name for name in names(dist.compiled) if "__mypyc." in name]
    assert b"CPyDef_" not in zipfile.ZipFile(dist.compiled).read(library)  # in its symbol table; it has no other names


@pytest.mark.parametrize("kind", ["pure", "compiled"])
def test_the_metadata_are_those_of_the_project(dist: Dist, kind: str) -> None:
    found = metadata(getattr(dist, kind))
    assert (found["Name"], found["Version"]) == ("streamproxy", __version__)
    assert found["Requires-Python"] == PROJECT["requires-python"]
    assert found["License-Expression"] == PROJECT["license"]
    assert set(found.get_all("Classifier", [])) == set(PROJECT["classifiers"])
    assert set(found.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert f"{INFO}licenses/LICENSE" in names(getattr(dist, kind))


def test_the_description_has_no_link_that_leads_nowhere_from_the_index(dist: Dist) -> None:
    text = str(metadata(dist.pure).get_payload())
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert (
        f"![The page of the admin listener: live streams, routes and endpoints]({PROJECT['urls']['Source']}/raw/"
        in text
    )


def chosen(dist: Dist, *options: str) -> str:
    """The file that pip takes, of those in the folder."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--no-index"]
    command += ["--quiet", "--find-links", str(dist.sdist.parent), "--report", "-", *options, "streamproxy"]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (installed,) = json.loads(done.stdout)["install"]
    return str(installed["download_info"]["url"]).rpartition("/")[2]


def test_pip_takes_the_compiled_wheel_where_it_fits(dist: Dist) -> None:
    assert chosen(dist) == dist.compiled.name


def test_pip_takes_the_pure_wheel_where_no_other_fits(dist: Dist, tmp_path: Path) -> None:
    elsewhere = ("--platform", "plan9", "--only-binary", ":all:", "--target", str(tmp_path))
    assert chosen(dist, *elsewhere) == dist.pure.name


def test_the_bill_of_materials_names_the_package_and_all_that_it_requires(dist: Dist) -> None:
    bill = json.loads(dist.sbom.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    versions = {component["name"].lower().replace("_", "-"): component["version"] for component in bill["components"]}
    assert bill["metadata"]["component"]["name"] == "streamproxy"
    extras = set(PROJECT["optional-dependencies"]) - {"bench", "docs", "fuzz", "release", "test"}
    wanted = [*PROJECT["dependencies"], *(one for extra in extras for one in PROJECT["optional-dependencies"][extra])]
    required = {re.split(r"[^\w-]", one)[0] for one in wanted}
    assert required <= set(versions)
    assert not {"pytest", "mypy", "ruff", "pip"} & set(versions)
