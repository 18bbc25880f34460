"""Which module may import which, and what `import skexmap` may load."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import skexmap

PACKAGE = Path(skexmap.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
NAMES = {
    ".".join(["skexmap", *module.with_suffix("").parts]).removesuffix(".__init__"): module
    for module in MODULES
}

# A module imports only from levels below its own (and from its own subpackage).
LEVELS = {
    "_validation": 1,
    "_torch": 1,
    "_group_labels": 1,
    "_blocks": 1,
    # It imports nothing, so that everything may warn.
    "exceptions": 0,
    "lrp": 2,
    "cluster": 2,
    "metrics": 2,
    "datasets": 2,
    "groups": 3,
    "features": 4,
    "retraining": 4,
    "_exmap": 5,
    "export": 5,
    "display": 6,
    "report": 6,
}
TORCH_FREE = ("cluster", "metrics", "datasets")
IMPORTED_LATE = ("torchvision", "captum", "matplotlib", "pandas")


def part_of(module):
    """Return the part a module file belongs to: its subpackage, or its own name at the top."""
    return module.parts[0].removesuffix(".py")


def imported_names(source, package):
    """Yield the dotted name of everything a module imports, late imports included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Level 1 is the package itself, level 2 the one around it, ...
            anchor = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*anchor, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(module, source):
    """Return the imports of a module file that its level forbids."""
    part = part_of(module)
    found = []
    for name in imported_names(source, ["skexmap", *module.parts[:-1]]):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "torch" and part in TORCH_FREE:
            found.append(f"{name} (the part is torch-free)")
        if top != "skexmap" or other == part or other.startswith("__version"):
            continue
        if not other:
            found.append(f"{name} (the whole package)")
        elif other not in LEVELS:
            found.append(f"{name} (not a part that has a level)")
        elif LEVELS[other] >= LEVELS[part]:
            found.append(f"{name} (level {LEVELS[other]}, not below {LEVELS[part]})")
    return found


# The package itself only collects the public names.
@pytest.mark.parametrize("module", [module for module in MODULES if module != Path("__init__.py")], ids=str)
def test_a_module_imports_only_from_levels_below_its_own(module):
    assert part_of(module) in LEVELS, f"give {module} a level in the design and here"
    assert not violations(module, (PACKAGE / module).read_text())


@pytest.mark.parametrize(
    "module, line, n_violations",
    [
        ("cluster/_knn.py", "from skexmap.lrp import rules", 1),
        ("cluster/_knn.py", "from ..metrics import group_report", 1),
        ("cluster/_knn.py", "def f():\n    import torch.nn", 1),
        ("metrics/_groups.py", "from torch import Tensor", 1),
        ("retraining/_dfr.py", "from skexmap.features import HeatmapTransformer", 1),
        ("_blocks.py", "from skexmap import _validation", 1),
        ("groups/_labeler.py", "from skexmap.display import EigengapDisplay", 1),
        ("lrp/_engine.py", "import skexmap", 1),
        ("cluster/_knn.py", "from skexmap._validation import check_group_labels", 0),
        ("cluster/_knn.py", "from skexmap.cluster._eigengap import clusters_at_widest_gap", 0),
        ("cluster/_knn.py", "from ._eigengap import clusters_at_widest_gap", 0),
        ("groups/_labeler.py", "from ..cluster import EigengapSpectralClustering", 0),
        ("features/_heatmaps.py", "import torch", 0),
        ("export.py", "from skexmap import __version__", 0),
    ],
)
def test_the_level_check_sees_every_form_of_a_forbidden_import_and_no_other(module, line, n_violations):
    assert len(violations(Path(module), line)) == n_violations


def test_no_imports_go_round_in_a_circle():
    graph = {}
    for name, module in NAMES.items():
        imported = imported_names((PACKAGE / module).read_text(), ["skexmap", *module.parts[:-1]])
        # `from package import name` imports the module of that name, or the package.
        homes = {full if full in NAMES else full.rpartition(".")[0] for full in imported}
        graph[name] = {home for home in homes if home in NAMES and home != name}
    assert len(graph["skexmap"]) > 5
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(NAMES)


def test_fit_context_is_the_only_decorator_on_a_fit():
    found = {}
    for module in MODULES:
        for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "fit":
                found[f"{module}:{node.lineno}"] = [
                    ast.unparse(d).partition("(")[0] for d in node.decorator_list
                ]
    assert len(found) > 10
    assert {name: d for name, d in found.items() if d != ["_fit_context"]} == {}


def test_importing_every_module_loads_neither_torchvision_captum_matplotlib_nor_pandas():
    # scikit-learn 1.9 imports pandas if it is installed, so leave out what scikit-learn and torch load.
    script = (
        f"import sys, sklearn.base, torch\nbefore = set(sys.modules)\nimport {', '.join(NAMES)}\n"
        f"print(*[m for m in {IMPORTED_LATE!r} if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
