"""python -m netfuse_onnx"""

import sys
from importlib import util
from pathlib import Path


def from_checkout() -> None:
    """Make the folder cli/ of a checkout the package netfuse_onnx.cli, as an installation does. Does nothing
    where the package is there."""
    folder = Path(__file__).resolve().parent.parent / "cli"
    if util.find_spec("netfuse_onnx.cli") is not None or not (folder / "__init__.py").is_file():
        return
    where = [str(folder)]
    spec = util.spec_from_file_location(
        "netfuse_onnx.cli", folder / "__init__.py", submodule_search_locations=where
    )
    if spec and spec.loader:
        package = sys.modules[spec.name] = util.module_from_spec(spec)
        spec.loader.exec_module(package)


if __name__ == "__main__":
    from_checkout()
    from netfuse_onnx.cli.main import main

    sys.exit(main())
