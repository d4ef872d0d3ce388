"""The session that users hold: `MergedSession`."""

from __future__ import annotations


class MergedSession:
    """Serves the models of a merged file or bundle: `run(model, feeds)` gives what the model itself would."""
