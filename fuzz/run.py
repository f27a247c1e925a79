"""Runs one target under atheris. A child of `python -m fuzz`; the process ends with the fuzzer."""

from __future__ import annotations

import logging
import sys
import tempfile

import atheris

from fuzz.targets import FOUND, folders_of, load


def write_dictionary(words: list[bytes]) -> str:
    """Writes libFuzzer's dictionary file; returns its path."""
    with tempfile.NamedTemporaryFile("w", suffix=".dict", delete=False) as file:
        for word in words:
            file.write('"' + "".join(f"\\x{byte:02X}" for byte in word) + '"\n')
    return file.name


def main(name: str, options: list[str]) -> None:
    """Fuzzes a target with libFuzzer's ``options`` until they say that it ends, or something is found."""
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["streamproxy"]):
        target = load(name)
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    arguments = [sys.argv[0], *options, f"-artifact_prefix={found.parent}/{name}-"]
    if target.dictionary:
        arguments.append("-dict=" + write_dictionary(list(target.dictionary)))
    arguments += map(str, [found, *folders_of(name)])
    if target.mutate is not None:
        mutate = target.mutate

        def change(data: bytes, largest: int, seed: int) -> bytes:
            return mutate(data, largest, seed) if seed % 8 else atheris.Mutate(data, largest)

        atheris.Setup(arguments, target.check, custom_mutator=change)
    else:
        atheris.Setup(arguments, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
