"""Measure on which runtimes merged files run unchanged, of those on which their sources run.

    python bench/portability.py --runtime openvino
    python bench/portability.py --runtime onnxruntime-web   (with NODE_PATH=.../node_modules)
    python bench/portability.py --table

One command per runtime writes bench/results/portability/RUNTIME.json; `--table` writes the table of
docs/portability.md from all of them. Each file runs in a process of its own, since some runtimes crash.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path
from queue import Empty
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

RESULTS = Path(__file__).parent / "results" / "portability"
PAGE = ROOT / "docs" / "portability.md"
PACKAGES = {"opencv": "opencv-python-headless", "mnn": "MNN", "iree": "iree-base-compiler"}
PORTABLE = ", portable"
FORMS = ("source", "separate", "stacked", f"separate{PORTABLE}", f"stacked{PORTABLE}")
SECONDS = 120
FAMILIES = (
    "mlp", "cnn", "bert", "resnext50", "xlnet", "lstm", "resnet", "mobilenet_v3", "shufflenet", "convnext",
    "vit", "unet_sized", "gpt2", "hifigan", "pointnet", "dlrm",
)  # fmt: skip


def measured(runtime: str, names: list[str], folder: Path) -> dict[str, dict[str, str]]:
    """The outcome of every family and form: `ok`, `wrong`, or the error."""
    rows: dict[str, dict[str, str]] = {}
    for name in names:
        rows[name] = row = {}
        while (pending := [form for form in FORMS if form not in row]) and row.get("source", "ok") == "ok":
            row.update(apart(runtime, name, pending, folder))
        sys.stderr.write(f"{runtime} {name}: {row}\n")
    return rows


def apart(runtime: str, name: str, forms: list[str], folder: Path) -> dict[str, str]:
    """The outcomes of a process that runs some forms, up to the one that ends it."""
    context = multiprocessing.get_context("spawn")
    answers, row = context.Queue(), dict[str, str]()
    child = context.Process(target=answer, args=(runtime, name, forms, folder, answers))
    child.start()
    for form in forms:
        try:
            row[form] = _waited(child, answers)
        except Empty:
            row[form] = f"no answer (exit code {child.exitcode})"
            break
    child.kill()
    child.join()
    return row


def _waited(child: Any, answers: Any) -> str:
    """The next answer. Raises Empty where the process ends, or takes too long."""
    for _ in range(SECONDS):
        try:
            return str(answers.get(timeout=1))
        except Empty:
            if child.exitcode is not None:
                break
    return str(answers.get(timeout=1))


def answer(runtime: str, name: str, forms: list[str], folder: Path, answers: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    for form in forms:
        try:
            answers.put(_compared(runtime, name, form, folder))
        except BaseException as error:  # each runtime raises classes of its own
            lines = str(error).strip().splitlines() or [type(error).__name__]
            answers.put(" ".join(lines[0].split())[:160])


def _compared(runtime: str, name: str, form: str, folder: Path) -> str:
    import samples
    from converting_runtimes import EVERY
    from test_other_runtimes import MODELS, agree, drawn, exported, fed, own

    import netfuse_onnx

    paths = exported(name, folder)
    each = [drawn(name, {}, m) for m in range(MODELS)]
    wants = [samples.session(path)(values) for path, values in zip(paths, each, strict=True)]
    path, feeds, io = paths[0], each[0], ""
    if form != "source":
        io, portable = form.removesuffix(PORTABLE), form.endswith(PORTABLE)
        path = str(folder / f"{name}-{form}.onnx")
        netfuse_onnx.merge(paths, path, io=io, verify=False, portable=portable)
        feeds = fed(each, paths, io)
    got = EVERY[runtime](path)(feeds)
    try:
        for m in range(1 if form == "source" else MODELS):
            agree(got if form == "source" else own(got, paths, m, io), wants[m], f"model {m}")
    except AssertionError:  # the row of the table says so
        return "wrong"
    return "ok"


# ------------------------------------------------------------------------ the table


def version(runtime: str) -> str:
    if runtime.startswith("onnxruntime-"):
        command = ["node", "-p", f"require('{runtime}/package.json').version"]
        path = Path(os.environ.get("NODE_PATH", ""), runtime, "package.json")
        if path.exists():
            return str(json.loads(path.read_text())["version"])
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return metadata.version(PACKAGES.get(runtime, runtime))


def table() -> str:
    """The table of all results."""
    lines = [
        "| runtime | version | sources | separate | stacked | `--portable` | stacked, `--portable` |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text())
        rows = [row for row in found["families"].values() if row["source"] == "ok"]
        counts = Counter(key for row in rows for key, value in row.items() if value == "ok")
        cells = [str(counts[form]) for form in FORMS[1:]]
        runs = f"{len(rows)} of {len(found['families'])}"
        lines.append(f"| {found['runtime']} | {found['version']} | {runs} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """The page with the table in its place."""
    begin, end = "<!-- measured -->\n", "<!-- end -->\n"
    head, rest = page.split(begin)
    return head + begin + table() + end + rest.split(end)[1]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runtime")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--table", action="store_true", help="write the table of docs/portability.md")
    given = parser.parse_args()
    if given.runtime:
        with tempfile.TemporaryDirectory() as folder:
            rows = measured(
                given.runtime, given.families.split(","), Path(os.environ.get("PORTABILITY", folder))
            )
        RESULTS.mkdir(parents=True, exist_ok=True)
        found = {"runtime": given.runtime, "version": version(given.runtime), "families": rows}
        (RESULTS / f"{given.runtime}.json").write_text(json.dumps(found, indent=1) + "\n")
    if given.table:
        PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
