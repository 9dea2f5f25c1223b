"""Standard output and error that print any text, whatever their encoding."""

from __future__ import annotations

import io
import sys


def escape_unprintable() -> None:
    """Write what a stream's encoding lacks as a backslash escape, in place of an error once all the work is done.

    Where output is not UTF-8 (redirected on Windows: cp1252, cp932; a Latin-1 or C locale) these are dashes and arrows,
    where it is, file names that are not. Streams that are set up to ignore or replace such text stay as they are.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        utf_8 = stream.encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        if stream.errors == "strict" or (stream.errors == "surrogateescape" and not utf_8):
            stream.reconfigure(errors="backslashreplace")
