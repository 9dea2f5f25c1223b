"""Turn a folder of finished, unfinished and missing runs into tables, figures and one offline page."""

from .page import write_report

__all__ = ["write_report"]
