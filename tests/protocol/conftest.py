"""The servers that the suite asks: each family's is started when the first test wants it, ours and Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import wire_families
from protocol import endpoints
from protocol.endpoints import Endpoint
from wire_families import Family

Serving = Callable[[str], Endpoint]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Write a family when it is first wanted."""
    folder: Path = tmp_path_factory.mktemp("families")
    families: dict[str, Family] = {}

    def write(name: str) -> Family:
        if name not in families:
            families[name] = wire_families.MAKERS[name](folder)
        return families[name]

    return write


@pytest.fixture(scope="session", params=["ours", pytest.param("triton", marks=pytest.mark.engines)])
def serving(
    request: pytest.FixtureRequest,
    written: Callable[[str], Family],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Serving]:
    """Give the endpoint of a family."""
    running: dict[str, Endpoint] = {}
    with ExitStack() as stack:

        def serve(name: str) -> Endpoint:
            if name not in running:
                start = endpoints.KINDS[request.param]
                folder = tmp_path_factory.mktemp(f"{request.param}-{name}")
                running[name] = stack.enter_context(start(written(name), folder))
            return running[name]

        yield serve


@pytest.fixture
def lookups(serving: Serving) -> Endpoint:
    return serving("lookups")


@pytest.fixture
def types(serving: Serving) -> Endpoint:
    return serving("types")


@pytest.fixture
def halves(serving: Serving) -> Endpoint:
    return serving("halves")


@pytest.fixture
def bfloats(serving: Serving, request: pytest.FixtureRequest) -> Endpoint:
    if request.node.callspec.params["serving"] == "triton":
        pytest.skip("Triton's python backend can't read bfloat16")
    return serving("bfloats")


@pytest.fixture
def shapes(serving: Serving) -> Endpoint:
    return serving("shapes")
