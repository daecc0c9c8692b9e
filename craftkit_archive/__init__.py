"""Keep, check, export and serve the PDFs of a Craftkit project, outside Craftkit."""

__version__ = "0.1.0"
