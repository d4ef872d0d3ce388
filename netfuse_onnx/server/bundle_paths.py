"""The bundles of an app: their paths, by the arguments with which it is deployed, and their versions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime import bundle as bundles

Path = str | os.PathLike[str]


def located(args: Mapping[str, str], folder: Path, families: Mapping[str, str]) -> dict[str, str]:
    """Return the absolute path of each family's bundle, by the arguments with which an app is deployed.

    FAMILY=PATH names another bundle, and `bundles=FOLDER`, or the variable NETFUSE_BUNDLES, another folder
    for all that are relative. Raises UsageFault for arguments of other names.
    """
    if wrong := args.keys() - families.keys() - {"bundles"}:
        raise UsageFault(
            f"The app takes no argument {min(wrong)!r}.", f"It takes bundles, {', '.join(families)}."
        )
    folder = args.get("bundles") or os.environ.get("NETFUSE_BUNDLES") or folder
    chosen = {family: args.get(family, bundle) for family, bundle in families.items()}
    return {family: os.path.abspath(os.path.join(folder, bundle)) for family, bundle in chosen.items()}


def models(bundle: str) -> tuple[str, ...]:
    """Return the names of a bundle's models. Raises FileFault."""
    return bundles.parse(bundle, bundles.manifest(bundle)).models


def served(bundle: str) -> dict[str, str]:
    """Return the `user_config` of a deployment that serves a bundle, which is read. When an app is deployed
    again with another one, its replicas change to that while they serve. Raises FileFault."""
    bundles.read(bundle)
    return {"bundle": bundle, "version": version(bundle)}


def version(bundle: str) -> str:
    """Return the SHA-256 of a bundle's manifest, which lists those of all its files. Raises FileFault."""
    return hashlib.sha256(bundles.manifest(bundle)).hexdigest()
