"""The style sheet that all HTML reports include."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["style_sheet"]


def style_sheet() -> str:
    """The CSS of ``report.css``, to be put into a ``<style>`` element."""
    return files("ecdctr.replay.report").joinpath("report.css").read_text(encoding="utf-8")
