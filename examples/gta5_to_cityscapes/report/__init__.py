"""Turn a folder of finished, unfinished and missing runs into tables, figures and one offline page."""

from .pages import write_paper_page, write_report

__all__ = ["write_paper_page", "write_report"]
