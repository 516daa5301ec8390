"""The package as a whole: what importing it costs, and which part may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

import metarec
from metarec.learner import Support

ROOT = Path(metarec.__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FRAMEWORKS = {"torch": {"torch"}, "jax": {"jax", "jaxlib", "flax", "optax"}}

# Data moves down this list and never back up: a part imports from its own layer and those above it.
LAYERS = (
    {"errors", "writing", "consumed"},
    {"data"},
    {"text"},
    {
        "splits",
        "published_splits",
        "episodes",
        "attributes",
        "collaborative",
        "features",
        "inputs",
        "factor_inputs",
        "pairs",
        "learner",
    },
    {"loops", "weights", "engines", "amortised", "warm_up", "kept", "neighbours", "hybrid"},
    {"speed"},
    {"baselines", "torch", "jax"},
    {"evaluation"},
    {"runs"},
    {"report"},
    {"audit"},
)

# The name under which a distribution is imported, where it is another.
IMPORTED_AS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "hydra": "hydra-core"}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path, only_at_import: bool = False) -> Iterator[tuple[int, str]]:
    """Line and dotted name of what a module imports, but for what only the type checker sees."""
    package = path.relative_to(ROOT).with_suffix("").parts
    package = package[:-1]

    def walk(node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from walk(child)
            return
        if only_at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    yield from walk(ast.parse(path.read_text(), filename=str(path)))


def part_of(dotted: str) -> str | None:
    """`splits` of `metarec.splits.Split`; None outside metarec and for metarec itself."""
    names = dotted.split(".")
    return names[1] if names[0] == "metarec" and len(names) > 1 else None


def layer(part: str) -> int:
    found = [number for number, parts in enumerate(LAYERS) if part in parts]
    assert found, f"metarec.{part} has no place in LAYERS of {Path(__file__).name}: give it one"
    return found[0]


def in_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_metarec_imports_nothing_heavy() -> None:
    heavy = {"torch", "jax", "transformers", "sklearn", "matplotlib", "pandas", "scipy", "hydra"}
    loaded = in_new_process("import sys, metarec; print(*sys.modules)").split()
    assert "metarec" in loaded
    assert heavy.isdisjoint(loaded)


def test_importing_metarec_takes_less_than_a_second() -> None:
    timed = "import time; t = time.perf_counter(); import metarec; print(time.perf_counter() - t)"
    assert min(float(in_new_process(timed)) for _ in range(3)) < 1


@pytest.mark.parametrize("name", metarec.__all__)
def test_every_public_name_can_be_imported_and_is_listed(name: str) -> None:
    assert getattr(metarec, name) is not None
    assert name in dir(metarec)


def test_the_type_checker_sees_the_names_that_are_imported_lazily() -> None:
    tree = ast.parse(Path(metarec.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == metarec._OWNERS


def test_an_unknown_name_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match="'load_datset'; did you mean 'load_dataset'"):
        metarec.load_datset  # noqa: B018


def test_annotations_are_checked_in_the_tests() -> None:
    one, wide = np.zeros((1, 2), np.float32), np.zeros((1, 3), bool)
    with pytest.raises(jaxtyping.TypeCheckError):
        Support(candidates=one.astype(np.int32), labels=one, mask=wide)
    with pytest.raises(jaxtyping.TypeCheckError):
        Support(candidates=one, labels=one, mask=one.astype(bool))


def test_the_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == metarec.__version__
    assert f"## [{metarec.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "metarec.__version__"


def test_nothing_in_the_package_imports_hydra_or_what_stands_outside_the_package() -> None:
    foreign = {"hydra", "experiments", "notebooks", "tests", "conftest"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("metarec")
        for line, name in imports(path)
        if name.split(".")[0] in foreign
    ]
    assert not wrong, "\n".join(wrong)


def test_a_framework_is_imported_only_by_the_folder_of_its_name() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("metarec")
        for line, name in imports(path)
        for folder, framework in FRAMEWORKS.items()
        if name.split(".")[0] in framework and path.relative_to(ROOT).parts[1] != folder
    ]
    assert not wrong, "\n".join(wrong)


def test_the_folders_of_learners_never_import_each_other() -> None:
    learners = {"baselines", "torch", "jax"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for folder in learners
        for path in modules(f"metarec/{folder}")
        for line, name in imports(path)
        if part_of(name) in learners - {folder}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_part_imports_from_a_later_one() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("metarec")
        if path != Path(metarec.__file__)
        for line, name in imports(path)
        if (part := part_of(name)) and layer(part) > layer(own_part(path))
    ]
    assert not wrong, "\n".join(wrong)


def own_part(path: Path) -> str:
    return path.relative_to(ROOT / "metarec").with_suffix("").parts[0]


@pytest.mark.parametrize("folder", ["metarec", "experiments"])
def test_everything_that_is_imported_is_declared(folder: str) -> None:
    """What a module imports is installed with metarec; what a function imports may be optional."""
    project = PYPROJECT["project"]
    core = {distribution(line) for line in project["dependencies"]}
    optional = {
        distribution(line)
        for lines in (
            *project["optional-dependencies"].values(),
            *(path.read_text().splitlines() for path in (ROOT / "requirements").glob("*.txt")),
        )
        for line in lines
        if line.strip() and not line.startswith("#")
    }
    known = set(sys.stdlib_module_names) | {"metarec", "__future__"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(folder)
        for always, declared in ((True, core), (False, core | optional))
        for line, name in imports(path, only_at_import=always)
        if (top := name.split(".")[0]) not in known
        and distribution(IMPORTED_AS.get(top, top)) not in declared
    ]
    assert not wrong, "\n".join(wrong)


def distribution(requirement: str) -> str:
    """The normalised name in a requirement such as `Jax[cuda13]>=0.7`."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()
