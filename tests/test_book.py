"What the texts say holds: commands parse, links lead somewhere, shown helps are today's."
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from skysky.cli import main

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/"nbs").rglob("*.ipynb"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT/"docs").rglob("*.md")), *sorted((ROOT/"config").glob("*.yaml")),
         *NOTEBOOKS]
ELSEWHERE = re.compile(r"[a-z]+:|#")  # an address, or a place on the same page


def cells(path, kind):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def prose(path):
    "The text of a page: a notebook's markdown cells, a config's comments."
    if path.suffix == ".ipynb": return "\n\n".join("".join(c["source"]) for c in cells(path, "markdown"))
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md": return text
    said = "\n".join(line[1:].removeprefix(" ") for line in text.splitlines() if line.startswith("#"))
    return "\n".join(f"```sh\n{line.strip()}\n```" if line.startswith("  skysky ") else line
                     for line in said.replace("\\\n", " ").splitlines())


def commands(path):
    "The words of each `skysky …` line in the shell blocks of a page."
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", prose(path), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^(\$ |[A-Z_]+=\S+ )+", "", line.strip())
            if not line.startswith("skysky "): continue
            words = shlex.split(line, comments=True)
            yield line, words[1:next((i for i, w in enumerate(words) if w in ("<", ">", "|", "&&", "&")), None)]


COMMANDS = [pytest.param(words, id=f"{path.relative_to(ROOT)}: {line}"[:90])
            for path in PAGES for line, words in commands(path)]


def test_commands_are_found():
    "The reader sees what it must see: this test fails if it goes blind."
    found = {str(path.relative_to(ROOT)): [line for line, _ in commands(path)] for path in PAGES}
    assert any("--layout colmap" in line for line in found["README.md"])
    assert any("train" in line for line in found["config/default.yaml"])
    assert any("evaluate" in line for line in found["nbs/tutorials/51_results.ipynb"])


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_in_a_text_is_one(words):
    ctx, command = click.Context(main, info_name="skysky", **main.context_settings), main
    while isinstance(command, click.Group):
        assert words, "no command"
        name, words = words[0], words[1:]
        command = command.commands.get(name)
        assert command, f"no command {name}"
        ctx = click.Context(command, ctx, info_name=name)
    options, _, _ = command.make_parser(ctx).parse_args(list(words))  # raises for an option that is none
    if command.name == "train":
        from skysky.train.config import TrainConfig
        keys = {field.name for field in fields(TrainConfig)}
        assert {word.partition("=")[0] for word in options.get("overrides") or ()} <= keys


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", prose(path), flags=re.S)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not ELSEWHERE.match(link)]
    assert not [link for link in links if not (path.parent/link.partition("#")[0]).exists()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_help_that_is_shown_is_todays(path):
    shown = ["".join(o.get("text", "")) for c in cells(path, "code") for o in c["outputs"]]
    for text in shown:
        for part in re.split(r"(?m)^(?=Usage: skysky)", text)[1:]:
            if "\nTry 'skysky" in part: continue  # a usage error, not a help
            words = re.match(r"Usage: skysky ((?:[a-z]+ )*)", part)[1].split()
            today = CliRunner().invoke(main, [*words, "--help"], prog_name="skysky").output
            assert part.strip() == today.strip(), f"execute {path.name} again"
