"""Print how large the library is, beside the limits that it keeps.

    python .ci/size.py

Code is what is neither blank, comment nor docstring. A function's length is that of its code. Public names are those
in the `__all__` of a public module. Private functions are those that no public name leads to.
"""

import ast
import functools
import importlib
import pkgutil
import statistics
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef
LIMITS = {
    "lines of the package": 11_500,
    "lines of code of the package": 5_800,
    "lines of the tests": 10_000,
    "public names": 65,
    "median lines of code of a function": 8,
    "lines of the longest file": 500,
    "private docstrings of more than two lines": 0,
}


def main():
    """Count, print, and say what is above its limit."""
    package, tests = (sorted((ROOT / part).rglob("*.py")) for part in ("skexmap", "tests"))
    lines = {path: len(path.read_text().splitlines()) for path in [*package, *tests]}
    functions = [function for path in package for function in functions_of(path)]
    figures = {
        "lines of the package": sum(lines[path] for path in package),
        "lines of code of the package": sum(len(code_lines(path)) for path in package),
        "lines of the tests": sum(lines[path] for path in tests),
        "public names": len(public_objects()),
        "median lines of code of a function": statistics.median(n for n, _, _ in functions),
        "lines of the longest file": max(lines[path] for path in package),
        "private docstrings of more than two lines": sum(doc > 2 for _, doc, private in functions if private),
    }
    for name, limit in LIMITS.items():
        print(f"{figures[name]:10,g}  {name}, at most {limit:,}{'  <-- above' * (figures[name] > limit)}")
    print("\nThe longest files:")
    for path in sorted(package, key=lines.get)[-8:]:
        print(f"{lines[path]:10,}  {path.relative_to(ROOT)}")


def code_lines(path):
    """Return the numbers of the lines that hold code."""
    with tokenize.open(path) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    rows = {row for t in tokens if t.type not in NO_CODE for row in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            rows -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return rows


def functions_of(path):
    """Yield lines of code, lines of docstring, and whether no user reaches it, of each function."""
    rows, public = code_lines(path), names_that_users_meet()

    def visit(node, reachable):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield from visit(child, child.name in public)
            elif isinstance(child, ast.FunctionDef):
                shown = reachable and not child.name.startswith("_")
                if isinstance(node, ast.Module):
                    shown = child.name in public
                doc = ast.get_docstring(child, clean=True)
                n_code = len([row for row in rows if child.lineno <= row <= child.end_lineno])
                yield n_code, len(doc.splitlines()) if doc else 0, not shown
                yield from visit(child, False)
            else:
                yield from visit(child, reachable)

    yield from visit(ast.parse(path.read_text()), True)


@functools.cache
def names_that_users_meet():
    """Return the names of the public objects, and of the classes that they inherit from."""
    return {cls.__name__ for thing in public_objects().values() for cls in getattr(thing, "__mro__", ())} | {
        name.rpartition(".")[2] for name in public_objects()
    }


@functools.cache
def public_objects():
    """Return the objects in the `__all__` of public modules, each once, under the first path to it."""
    sys.path.insert(0, str(ROOT))
    package = importlib.import_module("skexmap")
    modules = [package]
    for info in pkgutil.walk_packages(package.__path__, "skexmap."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            modules.append(importlib.import_module(info.name))
    seen = {}
    for module in modules:
        for name in getattr(module, "__all__", ()):
            if not name.startswith("__"):
                thing = getattr(module, name)
                seen.setdefault(id(thing), (f"{module.__name__}.{name}", thing))
    return dict(seen.values())


if __name__ == "__main__":
    main()
