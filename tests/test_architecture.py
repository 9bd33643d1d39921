"""The shape of the code: who may import whom, no circles, short functions. See docs/architecture.md.

It reads the sources and imports nothing. What breaks a rule today is listed below with exact numbers; the lists only
ever get shorter.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "dreamfusion"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "standard", "stopping"),
    ("device", "io"),
    ("config", "nemo"),
    ("method.cameras", "method.shading", "method.prompts"),
    ("toybox.kinds", "toybox.world", "toybox.captions"),  # the words that the embedded prior knows
    ("kernels",),
    ("fields",),
    ("assets",),
    ("renderers",),
    ("scenes",),
    ("guidance", "toybox.words"),
    ("method",),
    ("toybox",),
    ("pictures.film",),
    ("runs",),
    ("amortized",),
    ("evaluation", "pictures"),
    ("scale",),
    ("experiments",),
    ("api", "app", "studio"),
    ("__init__", "__main__"),
)
"""From the ground up: a module imports from its own layer and from those before it. The longest name counts."""

CIRCLES: set[frozenset[str]] = set()
"""Circles that are still there, each as the set of its modules."""

LONGEST = 60
"""Most lines of a function's body, without its docstring."""

LONG = {"kernels.hashgrid._kernels": 80, "kernels.pathtrace._trace": 72}
"""Functions that are still longer, and how long they are."""


def modules() -> dict[str, ast.Module]:
    """Return every module by its dotted name within the package; a package's own is named after its folder."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.Module, known: set[str]) -> set[str]:
    """Return the modules of this package that a module imports, lazily or not; `TYPE_CHECKING` blocks count, too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # A name is a module of a folder, or else something inside of the module before it.
            inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name.removeprefix("dreamfusion.") in known else node.module for name in inner.values()}
    return {name.removeprefix("dreamfusion.") for name in found if name.startswith("dreamfusion.")} & known


def layer(module: str) -> int:
    """Return the number of a module's layer: that of the longest name it begins with."""
    fitting = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    assert fitting, f"{module} has no layer: put it into LAYERS"
    return max(fitting)[1]


def circles(arrows: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the groups of modules that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = set()

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in arrows[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1 or module in arrows[module]:
                found.add(frozenset(group))

    for module in arrows:
        if module not in index:
            visit(module)
    return found


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield every function with its dotted name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.fixture(scope="module")
def sources() -> dict[str, ast.Module]:
    return modules()


@pytest.fixture(scope="module")
def arrows(sources: dict[str, ast.Module]) -> dict[str, set[str]]:
    return {module: imports(tree, set(sources)) for module, tree in sources.items()}


def test_no_module_imports_from_a_layer_above(arrows: dict[str, set[str]]):
    upward = {(module, other) for module, names in arrows.items() for other in names if layer(other) > layer(module)}
    assert sorted(upward) == [], "arrows upwards: move what is shared down, or hand it over as an argument"


def test_no_modules_import_each_other_in_a_circle(arrows: dict[str, set[str]]):
    found = circles(arrows)
    assert sorted(map(sorted, found - CIRCLES)) == []
    assert sorted(map(sorted, CIRCLES - found)) == [], "these circles are gone: take them off CIRCLES"


def test_functions_are_short(sources: dict[str, ast.Module]):
    lines = {f"{module}.{name}": body_lines(node) for module, tree in sources.items() for name, node in functions(tree)}
    long = {name: count for name, count in lines.items() if count > LONGEST}
    assert {name: count for name, count in long.items() if count > LONG.get(name, LONGEST)} == {}
    assert {name: count for name, count in LONG.items() if long.get(name) != count} == {}, "shorter now: say so in LONG"


def test_the_checks_see_what_they_must():
    known = {"a", "a.b", "a.c", "d"}
    tree = ast.parse("def f():\n    from dreamfusion.a import b\n    import dreamfusion.d\nimport torch\n")
    assert imports(tree, known) == {"a.b", "d"}
    assert imports(ast.parse("from dreamfusion.a.c import Thing\n"), known) == {"a.c"}
    assert imports(ast.parse("from dreamfusion.a import NAME\n"), known) == {"a"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset("bc")}
    assert layer("method.cameras") < layer("kernels.hashgrid") < layer("method.optimize")
    ((name, function),) = functions(
        ast.parse('class A:\n    def f(x):\n        """Say."""\n        y = x\n\n        return y')
    )
    assert (name, body_lines(function)) == ("A.f", 3)


def test_no_test_imports_another():
    """What several tests need lives in tests/support, and what benchmarks need as well in tiny/."""
    root = SOURCE.parents[1]
    for path in [*root.glob("tests/**/*.py"), *root.glob("benchmarks/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(("test_", "tests"))], path
