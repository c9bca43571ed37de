"""Processes that import nothing again: forks of a process that has imported what the tests have, and done nothing since.

``start`` is ``subprocess.Popen`` of this Python for tests that are not about how a process starts; what it writes goes to files.
"""

import atexit
import contextlib
import faulthandler
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

_server: socket.socket | None = None
"""To the process that forks; none where a fork of what is imported is not safe, or before the tests are collected."""


def serve() -> None:
    """Start the process that forks. Of this process, which must not have computed yet, it keeps the modules alone."""
    global _server
    if sys.platform != "linux" or _server is not None:
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        atexit.register(ours.close)
        _server = ours
        return
    try:
        _close_but(theirs.fileno())
        for number in (signal.SIGINT, signal.SIGCHLD):  # Ctrl-C is of the tests; who has ended is not waited for
            signal.signal(number, signal.SIG_IGN)
        while True:
            message, files, *_ = socket.recv_fds(theirs, 1 << 20, 3)
            if not message:  # the tests are over
                break
            if not os.fork():
                _watch(json.loads(message), *files)
            for file in files:
                os.close(file)
    finally:
        os._exit(0)


def _close_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _watch(asked: dict, out: int, err: int, status: int) -> None:
    """Fork the process that was asked for, and tell its number and, at its end, its status."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child = os.fork()
        if not child:
            _be(asked, out, err)
        _tell(status, child)
        os.close(out)
        os.close(err)
        _, ended = os.waitpid(child, 0)
        _tell(status, os.waitstatus_to_exitcode(ended))
    finally:
        os._exit(0)


def _tell(status: int, number: int) -> None:
    os.write(status, number.to_bytes(8, "big", signed=True))


def _told(status: int) -> int:
    return int.from_bytes(os.read(status, 8), "big", signed=True)


def _be(asked: dict, out: int, err: int) -> None:
    """Become what ``python ARGUMENTS`` is."""
    code = 1
    try:
        if asked["session"]:
            os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for file, number in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(file, number)
        _close_but()
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        _forget_pytest()
        for name in list(sys.modules):
            if name.partition(".")[0] in asked["anew"]:
                del sys.modules[name]
        code = _run(asked["arguments"])
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


def _forget_pytest() -> None:
    """Handlers, hooks and filters are those of a Python that has just started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    faulthandler.disable()
    logging.root.handlers.clear()
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    for one in list(weakref.finalize._registry):  # what the tests remove at their end is not removed at that of this
        one.detach()
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")


def _run(arguments: list[str]) -> int:
    try:
        if arguments[0] == "-m":
            sys.argv = ["-m", *arguments[2:]]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent.resolve()))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


class Process:
    """What tests use of ``subprocess.Popen``."""

    def __init__(
        self,
        arguments: Sequence[object],
        folder: Path,
        environment: Mapping[str, str],
        session: bool,
        anew: Sequence[str],
    ):
        self.returncode: int | None = None
        self._out, self._err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        asked = {
            "arguments": [str(one) for one in arguments],
            "folder": str(folder),
            "environment": dict(environment),
            "session": session,
            "anew": list(anew),
        }
        self._status, theirs = os.pipe()
        socket.send_fds(_server, [json.dumps(asked).encode()], [self._out.fileno(), self._err.fileno(), theirs])
        os.close(theirs)
        self.pid = _told(self._status)
        os.set_blocking(self._status, False)

    def poll(self) -> int | None:
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                self.returncode = _told(self._status)
                os.close(self._status)
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        self.wait(timeout)
        told = []
        for file in (self._out, self._err):
            file.seek(0)
            told.append(file.read())
            file.close()
        return told[0], told[1]


def start(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    start_new_session: bool = False,
    anew: Sequence[str] = (),
) -> Process | subprocess.Popen:
    """``python ARGUMENTS``, which are ``-m MODULE ...`` or ``SCRIPT ...``; modules and packages of ``anew`` it imports itself."""
    if _server is None:
        command = [sys.executable, *map(str, arguments)]
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=cwd, env=env, start_new_session=start_new_session, **piped)
    return Process(arguments, cwd or Path.cwd(), env or os.environ, start_new_session, anew)


def run(*arguments: object, **settings: object) -> subprocess.CompletedProcess:
    """The same to its end."""
    process = start(*arguments, **settings)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
