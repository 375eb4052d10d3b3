"""Imports every module of the project in a fresh interpreter and prints, as JSON, what our own code did meanwhile.

python import_probe.py ROOT. What a library does when it is imported (caches, fonts) is the library's business and not told.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import threading
from pathlib import Path

EVENTS = {
    *("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request"),
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.putenv", "os.unsetenv", "os.chdir", "tempfile.mkstemp", "tempfile.mkdtemp"),
    *("shutil.rmtree", "shutil.copyfile", "shutil.move", "signal.signal"),
}
HERE = __file__
STORE_SIDE = {"components.tracking.registry", "components.tracking.store"}  # whoever needs these imports them late
LIBRARIES = ("ray", "mlflow", "deepspeed")


def main(root: Path) -> None:
    sys.path.insert(0, str(root))
    done: list[str] = []
    watch(root, done)
    components = modules("components")
    for name in components:
        if name not in STORE_SIDE:
            importlib.import_module(name)
    loaded = [name for name in LIBRARIES if name in sys.modules]
    for name in (*components, *modules("pipelines"), *modules("tune"), *modules("serving")):
        importlib.import_module(name)
    ray = sys.modules.get("ray")
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    started = ray is not None and ray.is_initialized()
    print(json.dumps({"done": done, "loaded": loaded, "threads": threads, "children": children, "ray_started": started}))


def modules(package: str) -> list[str]:
    found = importlib.import_module(package)
    return [package, *(module.name for module in pkgutil.walk_packages(found.__path__, f"{package}."))]


def watch(root: Path, done: list[str]) -> None:
    """Note in `done` each event that a line of our own code, or the standard library on its behalf, is the cause of."""

    def note(event: str, detail: object) -> None:
        culprit = cause(root)
        if culprit:
            done.append(f"{culprit}: {event} {detail}"[:300])

    def hook(event: str, detail: tuple[object, ...]) -> None:
        if event in EVENTS or (event == "open" and isinstance(detail[1], str) and set(detail[1]) & set("wax+")):
            note(event, detail)

    # No audit event tells of these two.
    read, start = os._Environ.__getitem__, threading.Thread.start

    def read_noted(self: os._Environ[str], key: str) -> str:
        note("environment read", key)
        return read(self, key)

    def start_noted(self: threading.Thread) -> None:
        note("thread start", self.name)
        start(self)

    os._Environ.__getitem__, threading.Thread.start = read_noted, start_noted
    sys.addaudithook(hook)


def cause(root: Path) -> str:
    """Return file and line of the innermost frame outside the standard library, if it is ours."""
    standard = (str(Path(os.__file__).parent) + "/", "<")
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        library = "/site-packages/" in file
        if library or (file != HERE and not file.startswith(standard)):
            inside = file.startswith(f"{root}/") and not library
            return f"{file.removeprefix(f'{root}/')}:{frame.f_lineno}" if inside else ""
        frame = frame.f_back
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
