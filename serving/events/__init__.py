"""Keeps what users did, so that the next answer knows it."""

from serving.events.store import Event, EventConflict, EventStore, EventStoreError, Latest, check_store, open_store

__all__ = ["Event", "EventConflict", "EventStore", "EventStoreError", "Latest", "check_store", "open_store"]
