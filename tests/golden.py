"""Compares what two versions of the compiler make of the same models, byte for byte: the golden set.

    python tests/golden.py make build/golden
    python tests/golden.py compare build/golden v0.1.0 [--quick]

`make` writes the families: trained ones, the tiny ones of the paper from both exporters, sample architectures,
quantised ones, random graphs with control flow among them. `compare` merges each of them with the code of a git
revision and with the code of this checkout, with separate and stacked I/O, for no target and for the CPU.
Metadata aside, every byte of the graph and of the weights must be equal. Exit code 1 where one is not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx

ROOT = Path(__file__).parents[1]
COUNT = 3
TRAINED = ("magika", "ppocr_det", "funcnet_head", "seizure")
PAPER = ("resnet50", "resnext50", "bert", "xlnet", "mlp", "cnn", "lstm")
ARCHITECTURES = (
    "resnet", "mobilenet_v3", "densenet", "shufflenet", "vit", "swin", "mlp_mixer", "yolo", "ssd", "segformer",
    "unet", "c3d", "vae", "espcn", "distilbert", "deberta_v2", "fnet", "gpt2", "gpt2_step", "llama", "t5_encoder",
    "ssm", "wav2vec2", "hifigan", "patchtst", "crnn", "lstm_cells", "dlrm", "early_exit", "gcn",
)  # fmt: skip
QUANTISED = (
    ("cnn", "qdq"), ("cnn", "qdq-u8"), ("cnn", "qoperator"), ("mlp", "qoperator-s8"), ("bert", "dynamic"),
    ("mlp", "dynamic-s8"), ("bert", "matmul4"), ("mlp", "matmul4-qdq"), ("bert", "ort-extended"),
    ("bert", "ort-all"), ("resnet50", "ort-all"), ("cnn", "qdq-u8-ort-all"),
)  # fmt: skip
GRAPHS = 150
"""Random graphs, as tests/fuzz.py draws them."""

SETTINGS = tuple((io, target) for target in ("generic", "cpu") for io in ("separate", "stacked"))
QUICK = {"trained", "paper", "quantised", "graphs"}
"""Groups of which `--quick` takes every third family."""


# --------------------------------------------------------------------------- families


def make(folder: Path) -> None:
    """Write every family of the set to `folder`/GROUP/NAME. Families that are there are left alone."""
    sys.path.append(str(ROOT))
    from sample_models import real
    from sample_models.export import export_family
    from sample_models.families import FAMILIES
    from sample_models.quantised import derived
    from sample_models.zoo import ZOO

    for name in TRAINED:
        _written(folder / "trained" / name, lambda out, name=name: list(real.fetch_family(name, out)))
    for name in PAPER:
        for exporter in ("dynamo", "torchscript"):
            _written(
                folder / "paper" / f"{name}-{exporter}",
                lambda out, name=name, exporter=exporter: list(
                    export_family(FAMILIES[name], out, count=COUNT, tiny=True, exporter=exporter)
                ),
            )
    for name in ARCHITECTURES:
        item = ZOO[name]
        _written(
            folder / "zoo" / name,
            lambda out, item=item: list(
                export_family(item.family, out, count=COUNT, exporter=item.exporters[-1])
            ),
        )
    for name, kind in QUANTISED:
        paths = sorted((folder / "paper" / f"{name}-torchscript").glob("*.onnx"))
        _written(
            folder / "quantised" / f"{name}-{kind}",
            lambda out, paths=paths, kind=kind, name=name: list(derived(paths, kind, FAMILIES[name], out)),
        )
    for seed in range(GRAPHS):
        _written(folder / "graphs" / f"{seed:03}", lambda out, seed=seed: _graph(seed, out))


def _graph(seed: int, out: Path) -> None:
    import oracle
    from fuzzing.case import draw

    case = draw(seed)
    if case.model.graph.output and case.values:
        oracle.as_models(case.model, case.values, case.role, out)


def _written(out: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder that appears when it is complete."""
    if out.exists():
        return
    part = out.with_name(f".{out.name}")
    part.mkdir(parents=True, exist_ok=True)
    write(part)
    part.rename(out)
    _say(f"{out.parent.name}/{out.name}")


def families(folder: Path, *, quick: bool) -> Iterator[tuple[str, list[str]]]:
    """Name and models of each family."""
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        members = sorted(path for path in group.iterdir() if not path.name.startswith("."))
        for index, member in enumerate(members):
            if quick and (group.name not in QUICK or index % 3):
                continue
            models = sorted(map(str, member.rglob("*.onnx")))
            if len(models) > 1:
                yield f"{group.name}/{member.name}", models


# --------------------------------------------------------------------------- merges


def record(folder: Path, *, quick: bool) -> dict[str, str]:
    """A digest of each merge of each family, by the code that this process imports."""
    import netfuse_onnx

    code = os.environ.get("PYTHONPATH", str(ROOT))
    if not Path(netfuse_onnx.__file__).is_relative_to(code):
        raise SystemExit(f"netfuse_onnx comes from {netfuse_onnx.__file__}, not from {code}")
    return {
        f"{name} {io} {target}": _digest(models, io, target)
        for name, models in families(folder, quick=quick)
        for io, target in SETTINGS
    }


def _digest(models: Sequence[str], io: str, target: str) -> str:
    """SHA-256 of graph and weights, or the class of the error that says why there is no merge."""
    import netfuse_onnx

    with tempfile.TemporaryDirectory() as out:
        path = f"{out}/merged.onnx"
        try:
            netfuse_onnx.merge(models, path, io=io, target=target, verify=False)
        except netfuse_onnx.errors.NetfuseError as error:
            return type(error).__name__
        model = onnx.load(path, load_external_data=True)
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def compare(folder: Path, revision: str, *, quick: bool) -> list[str]:
    """The merges that the revision and this checkout write differently."""
    with tempfile.TemporaryDirectory() as place:
        tree = f"{place}/tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", tree, revision], check=True)
        try:
            old, new = (_recorded(folder, code, quick) for code in (tree, str(ROOT)))
        finally:
            subprocess.run([*git, "remove", "--force", tree], check=True)
    return different(old, new)


def _recorded(folder: Path, code: str, quick: bool) -> dict[str, str]:
    command = [sys.executable, __file__, "record", str(folder), *(["--quick"] if quick else [])]
    environ = {**os.environ, "PYTHONPATH": code}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environ)
    return dict(json.loads(done.stdout))


def different(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """One line per merge that differs."""
    return [
        f"{name}: {old.get(name, 'absent')[:16]} {new.get(name, 'absent')[:16]}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> int:
    """Run the command line; the exit code is 1 where merges differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=("make", "record", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("revision", nargs="?", default="HEAD")
    parser.add_argument("--quick", action="store_true", help="a third of the small families")
    given = parser.parse_args()
    if given.verb == "make":
        make(given.folder)
    elif given.verb == "record":
        _say(json.dumps(record(given.folder, quick=given.quick), indent=0))
    else:
        lines = compare(given.folder, given.revision, quick=given.quick)
        _say("\n".join(lines) or "every merge is equal")
        return bool(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
