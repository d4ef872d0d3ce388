"""tests/golden.py sees a difference of one byte, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import families
import golden


def digests(folder: Path) -> dict[str, str]:
    return golden.record(folder, quick=False)


def written(folder: Path, first: int) -> None:
    """One family of two models whose weights follow from the seeds `first` and `first` + 1."""
    member = folder / "small" / "linear"
    member.mkdir(parents=True, exist_ok=True)
    for seed in (first, first + 1):
        proto = families.model(families.MLP_TEXT, families.MLP, seed)
        families.save(member / f"{seed - first}.onnx", proto)


def test_equal_families_have_equal_digests(tmp_path: Path) -> None:
    written(tmp_path, 1)
    first = digests(tmp_path)
    assert len(first) == len(golden.SETTINGS)
    assert golden.different(first, digests(tmp_path)) == []


def test_another_weight_is_another_digest(tmp_path: Path) -> None:
    written(tmp_path, 1)
    first = digests(tmp_path)
    written(tmp_path, 2)
    assert len(golden.different(first, digests(tmp_path))) == len(golden.SETTINGS)


def test_a_merge_that_one_version_lacks_is_a_difference() -> None:
    assert golden.different({"a": "1"}, {}) == ["a: 1 absent"]
