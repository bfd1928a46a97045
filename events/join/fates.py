"""``FATES``: what happens to an impression or a click in the join; each event is counted under one of them."""

from __future__ import annotations

__all__ = ["CLICK_FATES", "FATES", "IMPRESSION_FATES", "REMARKS"]

IMPRESSION_FATES = {
    "positive": "labelled 1: its click came within the window",
    "negative": "labelled 0: its window passed without a click (with late_clicks = early: at once)",
    "duplicate_impression": "dropped: an impression with this id is waiting or was labelled",
    "impression_without_user": "dropped: a row needs a user",
}
CLICK_FATES = {
    "click": "joined: within the window",
    "late_click": "after the window: by late_clicks dropped, or a correction",
    "overdue_click": "within the window, but its partition delivered it after the impression was labelled: treated as late",
    "early_click": "dropped: it is earlier than its impression by more than the allowed skew",
    "duplicate_click": "dropped: the impression has a click already",
    "click_without_impression": "dropped: no impression came while it waited, or its impression is no longer remembered",
    "click_without_user": "dropped: its impression has no user",
}
FATES = IMPRESSION_FATES | CLICK_FATES
"""Every event that was read is waiting or counted under one of these."""

REMARKS = {
    "correction": "positive rows that were added after a negative of the same impression",
    "delivered_late": "events that were out of order by more than the lateness, or came after an idle decision",
    "closed_at_end": "negatives whose window had not passed when the input ended",
    "closed_by_bound": "negatives whose window was cut short, because more than max_pending impressions waited",
    "early_by_bound": "clicks without impression that did not wait to the end, because of max_early",
    "forgotten_by_bound": "labelled impressions that were forgotten before their time, because of max_closed",
}
"""Counted in addition: these events also have a fate."""
