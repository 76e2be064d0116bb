"""What README.md and docs/ print: their commands and example files, as tests run them."""
import re
from pathlib import Path

from helpers import ROOT

# pages whose commands must work today; docs/LOG.md tells what was run when it was written
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
               if path.name != "LOG.md")
PROGRAMS = r"(?:PYTHONPATH=\S+ )?(?:python|torchrun|make|pip) "


def page(name: str) -> str:
    return (ROOT / name).read_text()


def commands(text: str, *words: str) -> list[str]:
    """The command lines that stand in blocks of a text and hold all the words, in order. A line that ends in a
    backslash goes on in the next."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(block for language, block in blocks if not language).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(rf" *{PROGRAMS}", line) and all(word in line for word in words)]


def inline_commands(text: str) -> list[str]:
    """The whole commands between backquotes, such as those of a table."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(rf"`({PROGRAMS}[^`]+)`", prose)
            if re.search(r"\.py\b| -m |^make ", code)]


def printed(name: str, *words: str) -> str:
    """The command lines of a page that hold all the words, a line each; there must be one."""
    found = commands(page(name), *words)
    assert found, f"{name} has no command with {words}"
    return "\n".join(found)


def examples(name: str) -> dict[str, str]:
    """The example files of a page by the path that their first line, a comment, begins with."""
    blocks = re.findall(r"^```(\w+)\n(# ([\w/.]+).*?)^```", page(name), re.MULTILINE | re.DOTALL)
    return {path: content for _, content, path in blocks}


def write_examples(name: str, folder: Path, *paths: str) -> None:
    """Write these example files of a page."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(examples(name)[path])
