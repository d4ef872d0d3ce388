"""Opens what the verbs work on: the family of some sources, and a merged file together with its sources."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from netfuse_onnx import arguments, factoring, routes, sources, spelling_rows
from netfuse_onnx.load import simplified
from netfuse_onnx.load.claims import Run
from netfuse_onnx.match.matcher import match
from netfuse_onnx.options import Proof, refuse_unknown
from netfuse_onnx.options import checked as checked_options
from netfuse_onnx.prove import factors
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.rewrite.passes import rewritten
from netfuse_onnx.run import bounds, runtime
from netfuse_onnx.run.observe import observed
from netfuse_onnx.types import Correspondence, Edge, Ran, Source
from netfuse_onnx.write import metadata
from netfuse_onnx.write.digests import Digests


def _as_it_is(family: Correspondence) -> Correspondence:
    return family


def matched(
    models: Sequence[Source],
    names: Sequence[str],
    partial: bool,
    libraries: tuple[str, ...] = (),
    made_for: str = "",
    named: Sequence[Edge] | None = None,
    factored: factoring.Factoring = _as_it_is,
    combine: str | Mapping[str, str] = "",
    portable: bool = False,
) -> Correspondence:
    """Match, find low-rank differences and rewrite. Where only a run can tell the rank of a value, the first
    source is run."""
    ran = Ran.NOTHING

    def complete(source: Source, values: tuple[str, ...]) -> Sequence[Run]:
        nonlocal ran
        runs = observed(source, values, libraries)
        ran = Ran.TOLD if runs else Ran.FAILED
        return runs

    family = match(models, names, partial=partial, complete=complete, named=named, keep_opset=portable)
    family = factored(replace(family, combined=arguments.combined_outputs(combine, family)))
    family = rewritten(replace(family, portable=portable), made_for)
    return replace(bounds.affordable(family), ran=ran)


def read_merged(
    merged: str, paths: Sequence[str], proof: Proof, *, weights: bool = True
) -> tuple[metadata.Metadata, Options, Correspondence, list[str]]:
    """Return the metadata of a merged file, the options to run it with, the family of its sources, and a
    warning for each source that is not the file that was merged. Without `weights`, no factors are taken
    out of the file."""
    refuse_unknown(proof)
    about = metadata.read(merged)
    libraries = runtime.libraries(proof.get("libraries", ()))
    options = checked_options(about.io, about.share, proof, libraries)
    sources.refuse_other_kind(about, merged, paths)
    sources.refuse_other_number(about, merged, paths)
    spelling = spelling_rows.read(about.spelling)
    if spelling is not None and spelling.onnxslim:
        paths = simplified.paths(paths)
    models = sources.read(paths)
    with Digests(models) as digests:
        family = matched(
            models, about.models, about.partial, libraries, about.made_for, about.names,
            functools.partial(factors.restored, merged, about) if weights else _as_it_is,
            portable=about.portable,
        )  # fmt: skip
        family = routes.matched(family, about.io, about.made_for)
        family = replace(family, own_names=about.names is not None, combined=about.combined)
        family = replace(family, unmoved=about.unmoved)
        metadata.fitting(about, family, merged)
        options = options.remembering(about.dims, family)
        return about, options, family, metadata.strangers(about, paths, digests.result())


def other_sizes(options: Options) -> Iterator[str]:
    if options.further:
        sizes = [", ".join(f"{n}={d}" for n, d in one.items()) for one in (options.dims, *options.further)]
        yield (
            f"The file was planned for {'; '.join(sizes)}. Measured with {sizes[0]}; --dim NAME=VALUE "
            "chooses another."
        )
