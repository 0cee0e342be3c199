"""The prose of a file: paragraphs, docstrings, comments and messages, without their code."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

ITEM = re.compile(r"^\s*(?:[-*]|\d+\.) ")
CODE = re.compile(r"``?[^`\n]*(?:\n[^`\n]*)?``?")
HTML = re.compile(r"<!--.*?-->|</?(?:picture|source|img)\b[^>]*>", re.DOTALL)
LINK_TARGET = re.compile(r"\]\([^)]*\)")
DIRECTIVE = re.compile(r"#!|# (?:noqa|type:|fmt:|pragma:|pyright:)")
C_PARTS = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
C_MARK = re.compile(r"(?m)^\s*(?:/\*+|//|\*/|\*(?!/)) ?|\s*\*/$")


class Passage(NamedTuple):
    """A run of prose, the line at which it begins, and its kind. Its line breaks are the file's."""

    line: int
    text: str
    kind: str

    def line_of(self, position: int) -> int:
        return self.line + self.text.count("\n", 0, position)


class Comment(NamedTuple):
    """The words of a comment. It is alone if no code stands before it on its line."""

    line: int
    words: str
    alone: bool


def passages(path: Path) -> Iterator[Passage]:
    """Yield the prose of a file. Strings count where people read them, so not in tests."""
    text = path.read_text()
    messages = "tests" not in path.parts
    if path.suffix == ".md":
        yield from of_page(text, 1, "page")
    elif path.suffix in (".py", ".pyi"):
        yield from of_python(text, messages=messages)
    elif path.suffix in (".c", ".h"):
        yield from of_c(text, messages=messages)
    else:
        yield from of_comments(line_comments(text, "--" if path.suffix == ".lua" else "#"))


def of_page(text: str, first: int, kind: str) -> Iterator[Passage]:
    """Yield the paragraphs, list items, headings and table cells of a page, a docstring or a comment."""
    paragraph: list[str] = []
    fenced = False
    for number, line in enumerate([*text.splitlines(), ""], first):
        bare = line.strip()
        fence = bare.startswith("```")
        code = fenced or fence or (not paragraph and line.startswith("    ")) or bare.startswith(">>>")
        fenced ^= fence
        if paragraph and (code or not bare or bare[0] in "|#" or ITEM.match(line)):
            yield Passage(number - len(paragraph), plain("\n".join(paragraph)), kind)
            paragraph = []
        if code or not bare:
            continue
        if bare.startswith("|"):
            for cell in re.split(r"(?<!\\)\|", bare)[1:-1]:
                yield Passage(number, plain(cell.strip()), "cell")
        elif bare.startswith("#"):
            yield Passage(number, plain(bare.lstrip("# ")), "heading")
        else:
            paragraph.append(ITEM.sub("", line).strip().removeprefix("> "))


def plain(text: str) -> str:
    """Return Markdown as words: each piece of code is masked as one word, a link is what it shows, HTML is nothing."""
    text = CODE.sub(lambda code: re.sub(r"[^\n`]", "_", code.group()), text)
    text = HTML.sub(lambda html: "\n" * html.group().count("\n"), text)
    return LINK_TARGET.sub("", text).replace("[", "").replace("<br>", " ").replace("*", "")


def of_python(text: str, *, messages: bool) -> Iterator[Passage]:
    """Yield docstrings and comments, and with `messages` the other strings that have several words."""
    tree = ast.parse(text)
    done: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            done.add(node.value)
            yield from of_page(cleandoc(node.value.value), node.lineno, "docstring")
        elif isinstance(node, ast.JoinedStr):
            done.update(node.values)
    yield from of_comments(python_comments(text))
    for node in ast.walk(tree) if messages else ():
        if isinstance(node, ast.Constant | ast.JoinedStr) and node not in done and " " in message(node):
            yield Passage(node.lineno, message(node), "message")


def message(node: ast.AST) -> str:
    """Return the words of a string, with `_` for each value that is put in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(message, node.values))
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "_"


def python_comments(text: str) -> Iterator[Comment]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string):
            before = token.line[: token.start[1]]
            yield Comment(token.start[0], token.string.lstrip("# "), alone=not before.strip())


def line_comments(text: str, mark: str) -> Iterator[Comment]:
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(rf"(.*?(?:^|\s)){mark}+(?!!) ?(.*)", line):
            yield Comment(number, found[2], alone=not found[1].strip())


def of_comments(comments: Iterable[Comment]) -> Iterator[Passage]:
    """Yield comments. Those that stand alone on lines that follow one another are one text."""
    runs: list[list[Comment]] = []
    for comment in comments:
        if runs and comment.alone and runs[-1][-1].alone and comment.line == runs[-1][-1].line + 1:
            runs[-1].append(comment)
        else:
            runs.append([comment])
    for run in runs:
        yield from of_page("\n".join(it.words for it in run), run[0].line, "comment")


def of_c(text: str, *, messages: bool) -> Iterator[Passage]:
    """Yield the comments of C, and with `messages` its strings."""
    for part in C_PARTS.finditer(text):
        line = text.count("\n", 0, part.start()) + 1
        if not part.group().startswith('"'):
            yield from of_page(C_MARK.sub("", part.group()), line, "comment")
        elif messages:
            yield Passage(line, part.group().strip('"'), "message")
