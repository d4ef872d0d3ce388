"""Make the pictures of docs/report.md again: `python docs/report_pictures.py --models DIR`.

It exports ResNet-50 x 4 and BERT-base x 8 with random weights to DIR where they are missing (4 GB), merges
them, and photographs their pages. It needs the extras samples and report, playwright, and chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

import netfuse_onnx

PICTURES = Path(__file__).parent / "img"
MOST_BYTES = 200_000
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
WIDTH, HEIGHT = 1440, 1260


def family(name: str, count: int, folder: Path) -> list[str]:
    """Return the files of a family, which are exported where they are missing."""
    paths = [folder / f"{name}-{number}.onnx" for number in range(count)]
    if not all(path.exists() for path in paths):
        command = [sys.executable, "-m", "sample_models", name, "--count", str(count), "--out", str(folder)]
        subprocess.run(command, check=True)
    return [str(path) for path in paths]


def page(name: str, count: int, folder: Path, target: str, dims: dict[str, int]) -> Path:
    """Merge a family, and return its page."""
    out = folder / f"{name}.html"
    # BERT with random weights rounds by more than the default allows in one of 6,000 elements.
    netfuse_onnx.merge(
        family(name, count, folder),
        str(folder / f"{name}-merged.onnx"),
        target=target,
        dims=dims,
        atol=1e-5,
        report=str(out),
    )
    sys.stdout.write(f"{out}: {out.stat().st_size:,} bytes\n")
    return out


def photograph(browser: Any, file: Path, picture: str, scheme: str, act: Callable[[Any], None]) -> None:
    """Write one picture, with 255 colours, so that it is small."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
    shown = context.new_page()
    shown.goto(file.resolve().as_uri())
    shown.wait_for_selector("html[data-drawn]", state="attached")
    act(shown)
    shown.wait_for_timeout(500)
    out = PICTURES / picture
    shown.screenshot(path=str(out))
    context.close()
    with Image.open(out) as whole:
        whole.convert("RGB").quantize(255, method=Image.Quantize.FASTOCTREE).save(out, optimize=True)
    sys.stdout.write(f"{out}: {out.stat().st_size:,} bytes\n")
    assert out.stat().st_size < MOST_BYTES, out


def _attention(shown: Any) -> None:
    """Choose the attention of the fourth layer."""
    nodes = json.loads(shown.text_content("#scene"))["nodes"]
    names = [node["n"] for node in nodes if node["o"] == "Attention"]
    shown.fill("#search", f"attention {names[3]}")
    shown.keyboard.press("Enter")
    shown.fill("#search", "")
    shown.focus("#canvas")
    shown.evaluate("document.getElementById('graph').scrollIntoView()")


def _section(name: str) -> Callable[[Any], None]:
    return lambda shown: shown.evaluate(f"document.getElementById('{name}').scrollIntoView()")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of the models and their pages")
    folder = parser.parse_args(arguments).models
    resnet = page("resnet50", 4, folder, "cpu", {"batch": 1})
    bert = page("bert", 8, folder, "cuda", {"batch": 1, "sequence": 128})
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        photograph(browser, resnet, "report-resnet50.png", "light", lambda shown: None)
        photograph(browser, bert, "report-bert.png", "dark", lambda shown: None)
        photograph(browser, bert, "report-bert-node.png", "light", _attention)
        photograph(browser, resnet, "report-proofs.png", "light", _section("plan"))
        browser.close()


if __name__ == "__main__":
    main()
