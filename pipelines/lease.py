"""The lock of an output folder in an object store: an object that its owner writes anew every few seconds.

Whoever sees it unchanged for a whole lease takes it over, so no clocks are compared. S3 writes it only if it is as it was last
seen (If-None-Match, If-Match): of two runs that want it one gets it, and an owner that slept through its lease learns that it
lost. fsspec has no such write for other stores: there two runs may take over a dead owner's lock in the same moment.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec

from components.errors import OutputBusyError, TandemError

LEASE_S = 60.0
PARTS = 6  # renewals in a lease: that many may fail before anybody else takes the lock
CONFLICTS = (409, 412)  # HTTP: what was written meanwhile, or a condition that does not hold


@contextlib.contextmanager
def leased(
    fs: fsspec.AbstractFileSystem, path: str, me: str, busy: Callable[[str], None], lease_s: float = LEASE_S
) -> Iterator[Callable[[], None]]:
    """Hold the lock at `path` as `me`; yields what raises OutputBusyError when it was lost.

    `busy` is told of another owner that is alive, and raises where that should not be waited for. A run that loses its lock
    is interrupted as by SIGTERM.
    """
    lease = Lease(fs, path, me, lease_s)
    try:
        lease.take(busy)
    except (TandemError, KeyboardInterrupt):
        raise
    except Exception as error:  # the first thing written there: no credentials, no bucket, no right to write
        raise TandemError(f"--output: expected a store that can be written at {fs.unstrip_protocol(path)}: {error}") from error
    renewing = threading.Thread(target=lease.renew, daemon=True)
    renewing.start()
    try:
        yield lease.require
    except KeyboardInterrupt:
        lease.raise_if_lost()
        raise
    finally:
        lease.done.set()
        renewing.join()
        lease.free()


class Lease:
    """One run's claim on a lock."""

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str, me: str, lease_s: float) -> None:
        self._fs, self._path, self._me, self._lease_s = fs, path, me, lease_s
        self._token, self._mark = uuid.uuid4().hex, ""
        self._count, self._written_s = 0, time.monotonic()
        self._mutex = threading.Lock()  # of the thread that renews and the one that requires
        self.done, self.lost = threading.Event(), False

    def take(self, busy: Callable[[str], None]) -> None:
        """Wait until the lock is free, its owner's lease ran out, or `busy` raises because the owner is alive."""
        seen, since_s, told = "", time.monotonic(), False
        while True:
            found, mark = self._look()
            if not found.get("held") or (mark == seen and time.monotonic() - since_s > self._lease_s):
                if self._write(mark):
                    self._require_conditions()
                    return
            elif not seen:
                owner = found.get("owner", "?")
                print(f"the output is in use by {owner}: looking whether it is alive ({self._lease_s:g} s at most)", file=sys.stderr)
            elif mark != seen and not told:  # it was renewed while we looked
                busy(found.get("owner", "?"))
                told = True
            if mark != seen:
                seen, since_s = mark, time.monotonic()
            time.sleep(self._lease_s / PARTS / 4)

    def renew(self) -> None:
        """Write the lock anew until `done`; end the run when it was lost."""
        while not self.done.wait(self._lease_s / PARTS):
            with self._mutex:
                if self.lost:  # and the run knows
                    return
                self._renew_once()
                if self.lost:
                    # To the main thread itself: nothing else wakes it where it waits for a lock.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                    return

    def _renew_once(self) -> bool:
        """Write the lock anew; tell whether it was written. It is lost when it is another's, or was not written for a whole lease."""
        try:
            self.lost = not self._write(self._mark)
            self._written_s = time.monotonic()
            return not self.lost
        except Exception as error:  # a store that is away for a while
            logging.getLogger(__name__).warning("the lock could not be renewed: %s", error)
            self.lost = time.monotonic() - self._written_s > self._lease_s
            return False

    def free(self) -> None:
        """Leave the lock to whoever comes next."""
        if not self.lost:
            with contextlib.suppress(Exception):  # else its lease runs out
                self._write(self._mark, held=False)

    def require(self) -> None:
        """Raise OutputBusyError where the lock was lost. It is written anew to find out: this run may just have woken from a sleep."""
        with self._mutex:
            while not self.lost and not self._renew_once():
                time.sleep(self._lease_s / PARTS / 4)
        self.raise_if_lost()

    def raise_if_lost(self) -> None:
        """Raise OutputBusyError where the lock is known to be lost."""
        if self.lost:
            owner, place = "?", self._fs.unstrip_protocol(self._path)
            with contextlib.suppress(Exception):  # a store that is away
                owner = self._look()[0].get("owner", "?")
            raise OutputBusyError(f"{place} was taken over by {owner}, after this run had been silent for too long")

    def _look(self) -> tuple[dict[str, Any], str]:
        """Return the lock's content and the mark of this version; empty where there is none."""
        try:
            mark = str(self._fs.info(self._path)["ETag"]) if self._is_s3 else ""
            text = self._fs.cat_file(self._path).decode()  # pyright: ignore[reportAttributeAccessIssue]
        except FileNotFoundError:
            return {}, ""
        try:
            return json.loads(text), mark or text
        except ValueError:
            return {"held": True}, mark or text

    def _write(self, expected: str, held: bool = True) -> bool:
        """Write the lock if it is still the version with this mark, none where that is empty; tell whether it was."""
        self._count += 1  # so that no two versions are alike
        content = json.dumps({"owner": self._me, "held": held, "token": self._token, "count": self._count})
        condition = {"IfMatch": expected} if expected else {"IfNoneMatch": "*"}
        written = self._put(content, condition)
        if not written:  # unless what is there is this run's own: a write whose answer was lost
            found, mark = self._look()
            if found.get("token") == self._token:
                written = mark if found.get("count") == self._count else self._put(content, {"IfMatch": mark})
        self._mark = written or self._mark
        return bool(written)

    def _put(self, content: str, condition: dict[str, str]) -> str:
        """Write if the condition holds; return the new version's mark, empty where it does not."""
        try:
            return self._put_s3(content, condition) if self._is_s3 else self._put_elsewhere(content, condition.get("IfMatch"))
        except FileExistsError:
            return ""
        except OSError as error:
            answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
            # Somebody may also have removed the lock that this run held.
            if answer.get("HTTPStatusCode") in CONFLICTS or (isinstance(error, FileNotFoundError) and "IfMatch" in condition):
                return ""
            raise

    def _put_s3(self, content: str, condition: dict[str, str]) -> str:
        s3: Any = self._fs
        bucket, key, _ = s3.split_path(self._path)
        return s3.call_s3("put_object", Bucket=bucket, Key=key, Body=content.encode(), **condition)["ETag"]

    def _put_elsewhere(self, content: str, expected: str | None) -> str:
        if expected is not None and expected != self._look()[1]:
            return ""
        self._fs.pipe_file(self._path, content.encode(), mode="create" if expected is None else "overwrite")
        return content

    def _require_conditions(self) -> None:
        """Raise TandemError where the store writes whatever the condition says: its lock would hold nobody off."""
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"0"'}):
            if self._is_s3 and self._put(json.dumps({"owner": self._me, "held": False}), condition):
                place = self._fs.unstrip_protocol(self._path)
                raise TandemError(f"{place}: expected a store with conditional writes, this one ignores {next(iter(condition))}")

    @property
    def _is_s3(self) -> bool:
        return "s3" in self._fs.protocol
