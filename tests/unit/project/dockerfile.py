"""The Dockerfile as data: its instructions, so that tests can check them and take its steps without an engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]


class Instruction(NamedTuple):
    keyword: str
    text: str

    def exec_form(self) -> list[str]:
        """The arguments of ENTRYPOINT ["…"] and the like."""
        arguments: list[str] = json.loads(self.text[self.text.index("[") :])
        return arguments


class Dockerfile(NamedTuple):
    """The stages, each a list of instructions that begins with its FROM."""

    stages: list[list[Instruction]]

    def all(self, keyword: str, *, stage: int = -1) -> list[Instruction]:
        return [instruction for instruction in self.stages[stage] if instruction.keyword == keyword]

    def one(self, keyword: str) -> Instruction:
        """The only instruction of that kind in the last stage."""
        (instruction,) = self.all(keyword)
        return instruction


def read_dockerfile() -> Dockerfile:
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    stages: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            keyword, _, rest = line.partition(" ")
            if keyword == "FROM":
                stages.append([])
            stages[-1].append(Instruction(keyword, rest))
    return Dockerfile(stages)
