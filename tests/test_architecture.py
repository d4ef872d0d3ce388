"""The shape of the code: imports go one way, docstrings are sentences, `--help` is light, the docs' commands run."""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from families import family

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "netfuse_onnx"
STAGES = ("load", "match", "rewrite", "plan", "lower", "write", "prove", "tune", "measure")
"""The stages in order, each a package. `prove` belongs to the verb verify, `measure` to bench."""
HELPERS = ("storage", "ops", "layouts", "emit", "rules")
"""The packages that all stages use, in order: each imports only those before it, and `run` for ONNX Runtime."""
SKIN = ("api", "cli", "__main__")
HEAVY = ("onnx", "numpy", "torch", "onnxruntime", "onnx_graphsurgeon", "rich")
MOST_LINES, MOST_OF_A_FUNCTION = 350, 40
QUESTIONS = {"What", "Whether", "How", "Of", "Where", "Which", "Why", "When"}
"""A docstring that begins with one of these words has no main verb."""


def modules() -> dict[str, Path]:
    """Dotted names below netfuse_onnx -> files; the package itself is ''."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(name: str) -> frozenset[str]:
    """The modules of the package that a module imports at run time, in functions too."""
    known = modules()
    inside = name if known[name].stem == "__init__" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _at_run_time(ast.parse(known[name].read_text())):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = inside.split(".") if inside else []
            up = package[: len(package) - node.level + 1] if node.level else []
            start = ["netfuse_onnx", *up] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            targets = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        found |= {t.removeprefix("netfuse_onnx.") for t in targets if t.startswith("netfuse_onnx.")}
    return frozenset(found & known.keys() - {name})


def _at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _at_run_time(child)


def reached(name: str) -> set[str]:
    """Everything that a module imports, directly or not."""
    found, queue = set[str](), [name]
    while queue:
        fresh = imports(queue.pop()) - found
        found |= fresh
        queue += fresh
    return found


def package(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_nothing_to_its_right(stage: str) -> None:
    right = set(STAGES[STAGES.index(stage) + 1 :]) | set(SKIN)
    for name in modules():
        if package(name) == stage:
            assert not {other for other in reached(name) if package(other) in right}, name


@pytest.mark.parametrize("helper", HELPERS)
def test_a_helper_imports_only_those_before_it(helper: str) -> None:
    later = set(HELPERS[HELPERS.index(helper) + 1 :]) | {*STAGES, *SKIN}
    for name in modules():
        if package(name) == helper:
            assert not {other for other in reached(name) if package(other) in later}, name


def test_lower_reads_plans_and_makes_none() -> None:
    """It knows the types of a plan, not the offers, prices or search that make one."""
    for name in modules():
        if package(name) == "lower":
            plan = {other for other in reached(name) if package(other) == "plan"}
            assert plan <= {"plan", "plan.nested", "plan.blame"}, name


SERVING = {"errors", "edges", "combining", "expressions", "library", "runtime"}
"""What a service loads: words that it shares with the compiler, and nothing of the compiler itself."""


def test_serving_imports_nothing_of_the_compiler() -> None:
    for name in modules():
        if package(name) == "runtime":
            assert {package(other) for other in reached(name)} <= SERVING, name


def test_the_shared_types_import_nothing() -> None:
    assert not imports("types")
    assert not imports("errors")


@pytest.mark.parametrize("name", sorted(modules()))
def test_nothing_imports_the_verbs(name: str) -> None:
    if package(name) not in SKIN and name:
        assert not {package(other) for other in reached(name)} & set(SKIN)


def test_layouts_know_neither_the_emitter_nor_the_rules() -> None:
    below = {"layouts", "dims", "errors", "types", "storage", "ops"}
    for name in modules():
        if package(name) == "layouts":
            assert {package(other) for other in reached(name)} <= below


@pytest.mark.parametrize("layout", ["channels", "rows"])
def test_only_its_own_rules_name_a_layout(layout: str) -> None:
    """A layout is one file, and the rules that use it: nothing else says its name."""
    own = {f"layouts.{layout}", "layouts", f"rules.{layout}"}
    for name, path in modules().items():
        given = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
        named = {alias.name for node in given if "layouts" in (node.module or "") for alias in node.names}
        assert layout.upper() not in named or name in own, name


def test_no_module_is_named_like_a_verb() -> None:
    assert not {"merge", "check", "verify", "inspect", "bench"} & modules().keys()


def _python_files() -> list[Path]:
    return [path for folder in ("netfuse_onnx", "cli") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", _python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = 1 + (body[-1].end_lineno or 0) - body[0].lineno if body else 0
            assert lines <= MOST_OF_A_FUNCTION, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", _python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_docstring_is_a_sentence(path: Path) -> None:
    """Strings behind constants and fields count as docstrings, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            first = str(node.value.value).partition(" ")[0].strip(",:;\n")
            assert first not in QUESTIONS, f"line {node.lineno}"


# --------------------------------------------------------------------------- light help


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["merge", "--help"], ["verify", "--help"], ["bench", "--help"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from netfuse_onnx.cli.main import main
assert main({arguments!r}) == 0
loaded = [m for m in {HEAVY!r} if m in sys.modules]
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, netfuse_onnx; sys.exit(any(m in sys.modules for m in {HEAVY!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------- docs


def _commands() -> list[tuple[str, str]]:
    """The fenced blocks marked `sh` of the README and of docs/. Blocks that should not run are marked `console`."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if path.exists():
            blocks = re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
            found += [(f"{path.name}:{i + 1}", block) for i, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize(("where", "commands"), _commands(), ids=[where for where, _ in _commands()])
def test_the_commands_in_the_docs_run(tmp_path: Path, prepared: Path, where: str, commands: str) -> None:
    """Each block runs in a folder of its own with a.onnx, b.onnx, c.onnx and merged.onnx, and what came later."""
    work = tmp_path / "work"
    shutil.copytree(prepared, work)
    done = _shell(commands, work, tmp_path)
    assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a family of three, what the command merges them to, and two later models."""
    folder = tmp_path_factory.mktemp("prepared")
    family(folder, count=3)
    done = _shell(
        "netfuse-onnx merge a.onnx b.onnx c.onnx -o merged.onnx", folder, tmp_path_factory.mktemp("home")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, later in (("a", "d"), ("c", "new_b")):
        shutil.copy(folder / f"{name}.onnx", folder / f"{later}.onnx")
    return folder


def _shell(script: str, work: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder, with the commands of a user's machine, which come to `home`."""
    tools = home / "bin"
    tools.mkdir()
    for name, command in (("netfuse-onnx", "-m netfuse_onnx"), ("python", "")):
        shim = tools / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        shim.chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    above = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PATH": path, "PYTHONPATH": above, "XDG_CACHE_HOME": str(home / "cache")}
    return subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=work,
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_package_is_installed() -> None:
    """An editable installation finds packages that a wheel would lack."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in (ROOT / "netfuse_onnx").rglob("__init__.py")}
    assert {*listed} == {".".join(path.relative_to(ROOT).parts) for path in folders} | {"netfuse_onnx.cli"}
