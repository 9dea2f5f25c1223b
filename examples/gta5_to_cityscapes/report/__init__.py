"""Turn a folder of finished, unfinished and missing runs into tables, figures and one offline page."""

from .page import write_report
from .paper_page import write_paper_page

__all__ = ["write_paper_page", "write_report"]
