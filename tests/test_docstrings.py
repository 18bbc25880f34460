"""What a docstring says of parameters is what the signature says."""

import importlib
import inspect
import pkgutil
import re

import pytest

import skexmap


def documented_parameters(doc):
    """Return the names in the Parameters section of a docstring; None if it has none."""
    section = re.search(
        r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-{3,}|\Z)", inspect.cleandoc(doc or ""), re.S | re.M
    )
    if section is None:
        return None
    lines = [line for line in section[1].splitlines() if line and not line[0].isspace()]
    return [name.strip().lstrip("*") for line in lines for name in line.split(" : ")[0].split(",")]


def documented():
    """Yield every function, method and class of skexmap whose docstring has parameters, by name."""
    for info in pkgutil.walk_packages(skexmap.__path__, "skexmap."):
        for name, value in vars(importlib.import_module(info.name)).items():
            if getattr(value, "__module__", None) != info.name:
                continue
            if inspect.isfunction(value):
                yield f"{info.name}.{name}", value, value.__doc__
            elif inspect.isclass(value):
                if "__init__" in vars(value):
                    yield f"{info.name}.{name}", value.__init__, value.__doc__
                for method, function in vars(value).items():
                    if inspect.isfunction(function) and method != "__init__":
                        yield f"{info.name}.{name}.{method}", function, function.__doc__


DOCUMENTED = {
    name: (function, names)
    for name, function, doc in documented()
    if (names := documented_parameters(doc)) is not None
}


def test_more_than_100_docstrings_with_parameters_are_found():
    assert len(DOCUMENTED) > 100


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_parameters_are_those_of_the_signature(name):
    function, names = DOCUMENTED[name]
    assert sorted(names) == sorted(set(inspect.signature(function).parameters) - {"self"})
