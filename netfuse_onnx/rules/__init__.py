"""The batching rules, one file per operator family. Importing this package registers those of every file."""

import importlib
import pkgutil

from netfuse_onnx.rules._registry import Option, options, table
from netfuse_onnx.rules._site import Refuse, Site

__all__ = ["Option", "Refuse", "Site", "options", "table"]

for _file in pkgutil.iter_modules(__path__):  # sorted by name
    importlib.import_module(f"{__name__}.{_file.name}")
