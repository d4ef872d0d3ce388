"""Files that are open and measured beside those that serve, and do not serve yet."""

from __future__ import annotations

from netfuse_onnx.runtime.dispatch import Dispatcher
from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.runtime.signature import Signature
from netfuse_onnx.runtime.types import Engine


class Prepared:
    """The next generation of a session. It is to be served or closed."""

    def __init__(self, dispatcher: Dispatcher, engine: Engine) -> None:
        self._dispatcher, self._engine = dispatcher, engine

    @property
    def models(self) -> tuple[str, ...]:
        """The names of its models."""
        return self._engine.models

    def signature(self, model: str) -> Signature:
        """Return the inputs and outputs of a model. Raises UnknownModel."""
        return self._engine.signature(model)

    def serve(self) -> int:
        """Let new requests enter, and return the number of the generation. Raises Closed."""
        try:
            return self._dispatcher.replace(self._engine)
        except ServingError:
            self.close()
            raise

    def close(self) -> None:
        """Release the files, which nobody wants."""
        self._engine.close()
