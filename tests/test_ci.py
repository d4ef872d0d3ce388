"""The pre-commit hooks and the GitHub Action, in a fresh repository, as their hosts run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Run
from families import MLP, MLP_TEXT, family, merged, model, save

ROOT = Path(__file__).parent.parent
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
ODD = MLP_TEXT.replace("Relu", "Sigmoid")
Act = Callable[..., tuple[int, dict[str, str], str, str]]


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"]
    done = subprocess.run(["git", *own, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a family in a folder whose name has a space, and its merged file beside it."""
    home = tmp_path / "repository"
    folder = home / "my models"
    folder.mkdir(parents=True)
    git(home, "init", "-q")
    paths = family(folder)
    merged(folder, paths)
    git(home, "add", "-A")
    git(home, "commit", "-qm", "models")
    return home


# --------------------------------------------------------------------------- hook


@pytest.fixture
def hook(repository: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs the command of the hook in the repository: exit code, stderr."""
    monkeypatch.chdir(repository)

    def call(*arguments: object) -> tuple[int, str]:
        code, _, err = run("hook", *arguments)
        return code, err

    return call


def test_a_folder_is_a_family_without_its_merged_file(repository: Path, hook: Any) -> None:
    code, err = hook("my models/a.onnx")
    assert code == 0 and err.startswith("my models: 2 models\n") and "Equivalent" in err
    save(repository / "my models" / "untracked.onnx", model(ODD, MLP))
    assert hook("my models/a.onnx")[0] == 0
    git(repository, "add", "-A")
    code, err = hook("my models/a.onnx")
    assert code == 1 and "untracked" in err


def test_only_families_that_changed_and_all_without_files(repository: Path, hook: Any) -> None:
    other = repository / "other"
    other.mkdir()
    for name, text in (("c", MLP_TEXT), ("d", ODD)):
        save(other / f"{name}.onnx", model(text, MLP))
    git(repository, "add", "-A")
    assert hook("my models/b.onnx")[0] == 0
    assert hook("other/c.onnx")[0] == 1
    code, err = hook()
    assert code == 1 and "my models: 2 models" in err and "other: 2 models" in err
    # A family over folders, in place of the folders.
    assert hook("--family", "*/[ac].onnx", "other/c.onnx", "my models/b.onnx")[0] == 0
    assert hook("--family", "**/[ad].onnx", "other/d.onnx")[0] == 1
    assert hook("--family", "**/[ad].onnx", "other/c.onnx") == (0, "")


def test_a_pointer_of_git_lfs_and_a_second_family_after_it(repository: Path, hook: Any) -> None:
    (repository / "my models" / "b.onnx").write_text(POINTER)
    (repository / "z").mkdir()
    family(repository / "z")
    git(repository, "add", "-A")
    code, err = hook("my models/b.onnx", "z/a.onnx")
    assert code == 3 and "is a Git LFS pointer, not the model" in err
    assert "z: 2 models" in err


def test_no_repository(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code, _, err = run("hook", "a.onnx")
    assert code == 2 and "git finds no files" in err


def test_the_hooks_are_commands() -> None:
    """Each entry is a command of ours, with options that it has."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert [one["id"] for one in hooks] == ["netfuse-onnx-check", "netfuse-onnx-verify-digests"]
    for one in hooks:
        name, *arguments = one["entry"].split()
        done = subprocess.run(
            [sys.executable, "-m", "netfuse_onnx", *arguments, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert name == "netfuse-onnx" and "Example" in done.stdout


# --------------------------------------------------------------------------- action


@pytest.fixture
def act(repository: Path, tmp_path: Path) -> Act:
    """Runs the action's step as GitHub does: exit code, outputs, summary, log."""

    def call(script: str = "action.py", **inputs: str) -> tuple[int, dict[str, str], str, str]:
        temp, out, summary = tmp_path / "runner temp", tmp_path / "output", tmp_path / "summary"
        temp.mkdir(exist_ok=True)
        for path in (out, summary):
            path.write_text("")
        variables = {"RUNNER_TEMP": temp, "GITHUB_OUTPUT": out, "GITHUB_STEP_SUMMARY": summary}
        variables |= {f"INPUT_{name.upper()}": value for name, value in inputs.items()}
        command = [sys.executable] if script.endswith(".py") else ["bash"]
        done = subprocess.run(
            [*command, str(ROOT / ".ci" / script)],
            cwd=repository,
            env=os.environ | {key: str(value) for key, value in variables.items()},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, outputs(out.read_text()), summary.read_text(), done.stdout + done.stderr

    return call


def outputs(text: str) -> dict[str, str]:
    """Read GITHUB_OUTPUT as GitHub does."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, mark = line.split("<<")
        value: list[str] = []
        for held in lines:
            if held == mark:
                break
            value.append(held)
        found[name] = "\n".join(value)
    return found


SOURCES = "my models/a.onnx\nmy models/b.onnx"


def test_yes(act: Act, repository: Path) -> None:
    code, out, summary, _ = act(command="check", models="my models/*.onnx", merged="my models/merged.onnx")
    assert (code, out["ok"], out["exit-code"]) == (0, "true", "0")
    assert summary.startswith("### netfuse-onnx check: yes\n") and "| a, b | 4 | 17 |" in summary
    assert json.loads(Path(out["report"]).read_text())["equivalent"] is True
    code, out, summary, _ = act(command="merge", models=SOURCES, merged="again one.onnx", args="--io stacked")
    assert code == 0 and (repository / out["merged"]).exists()
    assert "| again one.onnx | a, b |" in summary and "| values | holds | 2 outputs on cpu" in summary
    code, out, summary, _ = act(command="verify", models="b=my models/b.onnx\na=my models/a.onnx",
                                merged="again one.onnx", junit="proof.xml", args="--isolation")  # fmt: skip
    assert (code, out["junit"]) == (0, "proof.xml") and (repository / "proof.xml").exists()
    assert act(command="digests", models=SOURCES, merged="again one.onnx")[0] == 0


def test_no(act: Act, repository: Path) -> None:
    save(repository / "my models" / "b.onnx", model(MLP_TEXT, MLP, seed=7))
    code, out, summary, log = act(command="digests", models=SOURCES, merged="my models/merged.onnx")
    assert (code, out["ok"], out["exit-code"]) == (1, "false", "1")
    assert "| b | my models/b.onnx | another file |" in summary
    assert "::error title=netfuse-onnx::my models/b.onnx is not the file" in log
    code, _, summary, _ = act(command="verify", models=SOURCES, merged="my models/merged.onnx")
    assert code == 1 and "| bytes | fails |" in summary and "| b | y |" in summary
    save(repository / "my models" / "b.onnx", model(ODD, MLP))
    code, _, summary, _ = act(command="check", models=SOURCES)
    assert code == 1 and "### netfuse-onnx check: no" in summary and "Sigmoid" in summary
    (repository / "my models" / "b.onnx").write_text(POINTER)
    code, _, summary, _ = act(command="check", models=SOURCES)
    assert code == 3 and "Git LFS pointer" in summary


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"command": "rm"}, "There is no command"),
        ({"command": "verify", "models": SOURCES}, "needs the input"),
        ({"models": "none/*.onnx"}, "No file is called"),
        ({"models": ""}, "names no files"),
        ({"models": SOURCES, "args": "'"}, "can't be read"),
        ({"models": "my models/a.onnx"}, "1 model given"),
    ],
)
def test_inputs_that_make_no_sense(act: Act, inputs: dict[str, str], said: str) -> None:
    code, out, summary, log = act(**inputs)
    assert (code, out["exit-code"]) == (2, "2")
    assert said in summary.replace("\\", "") and "::error" in log and "Traceback" not in log


def test_a_name_is_neither_markup_nor_a_command(act: Act, repository: Path) -> None:
    """Names of files reach the log, the outputs and the summary."""
    name = "a|b<b>`\n::error::x.onnx"
    shutil.copy(repository / "my models" / "a.onnx", repository / name)
    save(repository / "c.onnx", model(ODD, MLP))
    code, out, summary, log = act(models="*.onnx")
    assert code == 1 and set(out) == {"ok", "exit-code", "report", "merged", "junit"}
    assert "<b>" not in summary and "\n::error::x" not in log
    rows = [line for line in summary.splitlines() if line.startswith("|")]
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


def test_the_action_gives_its_inputs_and_outputs_to_the_script() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    step = action["runs"]["steps"][0]
    assert step["env"] == {f"INPUT_{name.upper()}": f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
    assert "${{" not in step["run"]
    for name, one in action["outputs"].items():
        assert one["value"] == f"${{{{ steps.{step['id']}.outputs.{name} }}}}"
    text = (ROOT / "docs" / "ci.md").read_text()
    assert all(f"`{name}`" in text for name in (*action["inputs"], *action["outputs"]))
    workflow = yaml.safe_load((ROOT / "examples" / "ci" / "models.yml").read_text())
    for used in workflow["jobs"]["merged"]["steps"]:
        if "netfuse-onnx" in used.get("uses", ""):
            assert used["with"].keys() <= action["inputs"].keys()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check-jsonschema", "--builtin-schema", "vendor.github-actions", "action.yml"),
        ("check-jsonschema", "--builtin-schema", "vendor.github-workflows", "examples/ci/models.yml"),
        ("shellcheck", ".ci/action.sh", ".ci/run"),
        ("pre-commit", "validate-manifest", ".pre-commit-hooks.yaml"),
        ("pre-commit", "validate-config", "examples/ci/pre-commit-config.yaml"),
    ],
    ids=" ".join,
)
def test_the_tools_of_these_files_take_them(arguments: tuple[str, ...]) -> None:
    tool = Path(sys.executable).parent / arguments[0]
    if not tool.exists():
        pytest.skip(f"{arguments[0]} is not installed")
    done = subprocess.run([tool, *arguments[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --------------------------------------------------------------------------- the hosts themselves


@pytest.mark.slow
def test_the_script_of_the_action_installs_and_runs(act: Act) -> None:
    for _ in range(2):  # the second step of a job finds the environment
        code, out, summary, log = act("action.sh", command="check", models=SOURCES, python=sys.executable)
        assert (code, out["ok"]) == (0, "true"), log
        assert "check: yes" in summary
    assert "Install netfuse-onnx" not in log
    assert act("action.sh", command="verify", models=SOURCES, merged="my models/merged.onnx")[0] == 0


@pytest.mark.slow
def test_pre_commit_runs_the_hooks(repository: Path, tmp_path: Path) -> None:
    """Installs them from a repository, as pre-commit does, then commits what is right and what is wrong."""
    tool = Path(sys.executable).parent / "pre-commit"
    if not tool.exists():
        pytest.skip("pre-commit is not installed")
    ours = tmp_path / "netfuse"
    for name in git(
        ROOT, "ls-files", "netfuse_onnx", "cli", "pyproject.toml", "README.md", "LICENSE"
    ).splitlines():
        (ours / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, ours / name)
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", ours)
    git(ours, "init", "-q")
    git(ours, "add", "-A")
    git(ours, "commit", "-qm", "hooks")
    hooks = [
        {"id": "netfuse-onnx-check"},
        {
            "id": "netfuse-onnx-verify-digests",
            "args": [f"my models/{name}.onnx" for name in ("merged", "a", "b")],
        },
    ]
    config = {"repos": [{"repo": str(ours), "rev": git(ours, "rev-parse", "HEAD"), "hooks": hooks}]}
    (repository / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    git(repository, "add", "-A")

    def checked() -> tuple[int, str]:
        done = subprocess.run(
            [tool, "run", "--all-files"],
            cwd=repository,
            env=os.environ | {"PRE_COMMIT_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = checked()
    assert (code, said.count("Passed")) == (0, 2), said
    save(repository / "my models" / "b.onnx", model(ODD, MLP))
    git(repository, "add", "-A")
    code, said = checked()
    assert (code, said.count("Failed")) == (1, 2), said
    assert "Not equivalent" in said and "its SHA-256 differs" in said
