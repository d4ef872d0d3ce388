"""Mistakes in the proof itself: what makes it deaf."""

from .mutation import mutation

MUTATIONS = ()
