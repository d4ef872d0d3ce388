"""Writes netfuse_onnx/ops/kernels_cuda.json: the kernels that ONNX Runtime registers for CUDA.

    LD_LIBRARY_PATH=FOLDER python bench/kernels.py

It needs onnxruntime-gpu, gcc, and nothing of this project. FOLDER holds CUDA's and cuDNN's libraries, or
stand-ins that export the same names: nothing runs on the device. ONNX Runtime asks TensorRT for its
kernels as well, and crashes where its two libraries are missing; gcc makes empty ones.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "netfuse_onnx" / "ops" / "kernels_cuda.json"
DOMAINS = ("", "ai.onnx.ml", "com.microsoft")
OWN = ("MemcpyFromHost", "MemcpyToHost")
"""Operators that no file holds: ONNX Runtime writes them."""
FOREVER = 2**31 - 1

TENSORRT = {
    "libnvinfer.so.10": (
        "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
        "getInferLibVersion", "getPluginRegistry",
    ),
    "libnvonnxparser.so.10": ("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL"),
}  # fmt: skip
"""The libraries of TensorRT, and the functions that ONNX Runtime wants to find in them."""

Slots = dict[str, tuple[str, ...]]
"""The element types that a kernel takes, by the inputs and outputs that have the type: "0 1 out0"."""


def main() -> None:
    if len(sys.argv) == 1:
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.environ.get("LD_LIBRARY_PATH", ""), _stand_ins(Path(folder))]
            environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths))}
            subprocess.run([sys.executable, __file__, "write"], env=environment, check=True)
        return
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    rows = table(runtime.get_all_opkernel_def(), runtime.get_all_operator_schema())
    provenance = {
        "read": datetime.date.today().isoformat(),
        "by": "bench/kernels.py",
        "onnxruntime": onnxruntime.__version__,
        "provider": "CUDAExecutionProvider",
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(rows.items())]
    body = ",\n".join(lines)
    OUT.write_text(f'{{"provenance": {json.dumps(provenance)},\n"kernels": {{\n{body}\n}}}}\n')
    print(f"{len(rows)} operators, {sum(map(len, rows.values()))} rows: {OUT}")


def _stand_ins(folder: Path) -> str:
    for library, names in TENSORRT.items():
        source = folder / f"{library}.c"
        source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in names))
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{library}",
            "-o",
            str(folder / library),
            str(source),
        ]
        subprocess.run(command, check=True)
    return str(folder)


def table(kernels: Iterable[Any], schemas: Iterable[Any]) -> dict[str, list[Any]]:
    """`Conv` or `com.microsoft.FusedConv` -> rows of first version, last version or null, element types."""
    known: dict[str, dict[int, Any]] = defaultdict(dict)
    for schema in schemas:
        known[_key(schema.domain, schema.name)][schema.since_version] = schema
    found: dict[tuple[str, int, int], list[Slots]] = defaultdict(list)
    for kernel in kernels:
        key = _key(kernel.domain, kernel.op_name)
        in_files = kernel.domain in DOMAINS and kernel.op_name not in OWN
        if kernel.provider == "CUDAExecutionProvider" and in_files and key in known:
            first, last = kernel.version_range
            since = max((v for v in known[key] if v <= first), default=min(known[key]))
            found[key, first, last].append(_slots(kernel.type_constraints, known[key][since]))
    rows: dict[str, list[Any]] = defaultdict(list)
    for (key, first, last), taken in sorted(found.items()):
        for slots in _joined(taken):
            types = {slot: " ".join(names) for slot, names in slots.items()}
            rows[key].append([first, None if last == FOREVER else last, types])
    return rows


def _key(domain: str, op: str) -> str:
    return f"{domain}.{op}".removeprefix(".")


def _slots(constraints: Mapping[str, Iterable[str]], schema: Any) -> Slots:
    """A constraint is called like a type of the schema, or like one of its inputs or outputs. Those on
    sequences and maps are left out."""
    slots: Slots = {}
    for name, types in constraints.items():
        places = [
            f"{prefix}{place}"
            for prefix, formals in (("", schema.inputs), ("out", schema.outputs))
            for place, formal in enumerate(formals)
            if name in (formal.typeStr, formal.name)
        ]
        elements = tuple(
            t.removeprefix("tensor(").removesuffix(")") for t in types if t.startswith("tensor(")
        )
        if places and elements:
            slots[" ".join(places)] = elements
    return slots


def _joined(taken: list[Slots]) -> list[Slots]:
    """Fewer rows that say the same: two which differ in one place are one."""
    rows = [{place: tuple(sorted(set(types))) for place, types in slots.items()} for slots in taken]
    while True:
        for one, other in itertools.combinations(rows, 2):
            apart = [place for place in one if one[place] != other.get(place)]
            if set(one) == set(other) and len(apart) <= 1:
                rows.remove(other)
                for place in apart:
                    one[place] = tuple(sorted({*one[place], *other[place]}))
                break
        else:
            return rows


if __name__ == "__main__":
    main()
