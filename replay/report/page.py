"""What all HTML reports share: the head of the page with its style sheet, and its end."""

from __future__ import annotations

from html import escape
from importlib.resources import files

__all__ = ["PAGE_END", "page_start"]

PAGE_END = "</main>\n</body>\n</html>\n"
"""Closes what :func:`page_start` opened."""


def page_start(title: str) -> str:
    """A self-contained page up to and including its heading: no script, no other file.

    Parameters
    ----------
    title
        Title and heading, as plain text.
    """
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # The browser loads nothing, whatever a name in the data contains.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n'
        f"<h1>{escape(title)}</h1>\n"
    )
