"""The report of a merged file as one HTML page that needs no network."""
