"""Turn a folder of finished, unfinished and missing runs into tables, figures and one offline page."""

from .paper_page import write_paper_page
from .recipes_page import write_report

__all__ = ["write_paper_page", "write_report"]
