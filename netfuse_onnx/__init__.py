"""netfuse-onnx merges N ONNX models of one architecture with different weights into one graph.

The functions here are the verbs of the command line. They are loaded on first use, so that importing the
package (as `netfuse-onnx --help` does) loads neither onnx nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netfuse_onnx.errors import (
    AdapterMismatch,
    AnswerIsNo,
    FileFault,
    InternalError,
    NetfuseError,
    NotEquivalent,
    NotExportable,
    NotProven,
    NotRoutable,
    NotStackable,
    SourcesDiffer,
    StrictViolated,
    UsageFault,
    ValuesDiffer,
)

if TYPE_CHECKING:
    from netfuse_onnx.api import (
        add,
        bench,
        bundle,
        check,
        inspect,
        merge,
        remove,
        split,
        update,
        verify,
        write_report,
    )
    from netfuse_onnx.fleet.planning import plan_fleet
    from netfuse_onnx.load.adapters import paths as adapters
    from netfuse_onnx.pytorch.exporting import export
    from netfuse_onnx.runtime.session import MergedSession
    from netfuse_onnx.server.running import serve
    from netfuse_onnx.source_digests import digests

__version__ = "0.1.0"

__all__ = [
    "AdapterMismatch",
    "AnswerIsNo",
    "FileFault",
    "InternalError",
    "MergedSession",
    "NetfuseError",
    "NotEquivalent",
    "NotExportable",
    "NotProven",
    "NotRoutable",
    "NotStackable",
    "SourcesDiffer",
    "StrictViolated",
    "UsageFault",
    "ValuesDiffer",
    "__version__",
    "adapters",
    "add",
    "bench",
    "bundle",
    "check",
    "digests",
    "export",
    "inspect",
    "merge",
    "plan_fleet",
    "remove",
    "serve",
    "split",
    "update",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "adapters":
        from netfuse_onnx.load.adapters import paths

        return paths
    if name == "MergedSession":  # serving loads neither onnx nor the compiler
        from netfuse_onnx.runtime.session import MergedSession

        return MergedSession
    if name == "serve":
        from netfuse_onnx.server.running import serve

        return serve
    if name == "plan_fleet":
        from netfuse_onnx.fleet.planning import plan_fleet

        return plan_fleet
    if name == "export":
        from netfuse_onnx.pytorch.exporting import export

        return export
    if name == "digests":  # answers within a second, so it loads no more than it needs
        from netfuse_onnx.source_digests import digests

        return digests
    if name in __all__:  # a verb, whose name no module of the package may have
        from netfuse_onnx import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
