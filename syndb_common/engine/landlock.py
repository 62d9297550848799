"""Confinement of the calling process by Landlock, the kernel's sandbox for processes without privileges.

The engine process may write its own folder and nothing else, read what Python and ClickHouse need and nothing
else, start no program, open no TCP connection but to the port of its ClickHouse server if it has one, and listen on
one port only. So neither ``file()``, ``url()`` nor ``INTO OUTFILE`` can reach anything, whatever SQL they stand in. It
binds the calling thread and those it starts later: call it before any library starts threads. Kernel 5.19 (ABI 2) is
the least; TCP rules need 6.7 (ABI 4), those on signals and abstract sockets 6.12 (ABI 6).
"""

from __future__ import annotations

import ctypes
import os
import site
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2
_PR_SET_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_ABI_1_RIGHTS = (1 << 13) - 1
_REFER, _TRUNCATE = 1 << 13, 1 << 14
"""ClickHouse links parts from one table's folder to another's (REFER) and truncates its logs (TRUNCATE)."""
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
"""Abstract unix sockets and signals: of processes that are not confined with it."""

_SYSTEM_FILES = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo",
    "/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/sys", "/sys/fs/cgroup", "/sys/devices/system",
    "/dev/urandom",
)  # fmt: skip

_TO_FIND_SERVERS = (
    "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services",
    "/run/systemd/resolve", "/etc/ssl/openssl.cnf", "/etc/ssl/cert.pem", "/etc/ssl/certs", "/etc/pki/tls/certs",
    "/etc/pki/ca-trust", "/usr/share/ca-certificates",
)  # fmt: skip


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("folder", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    _fields_ = (("access", ctypes.c_uint64), ("port", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def abi() -> int:
    """Version of Landlock in this kernel; 0 where there is none."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def confine(
    folder: Path,
    port: int | None,
    *,
    server_port: int | None = None,
    ca_file: Path | None = None,
    readable: Iterable[Path] = (),
) -> bool:
    """Confine this thread, and all it starts, to ``folder`` and the TCP port it may listen on (0: any free one).

    Args:
        folder: what it may write.
        port: where its Flight server listens.
        server_port: where its ClickHouse server listens; what finds and trusts that one may be read then.
        ca_file: of these, the one that the operator named.
        readable: folders of the daemon's that it may read.

    Returns:
        Whether the kernel could: False means that nothing was changed.
    """
    version = abi()
    if version < 2:
        return False
    files = _ABI_1_RIGHTS | _REFER | (_TRUNCATE if version >= 3 else 0)
    net = _BIND_TCP | _CONNECT_TCP if version >= 4 else 0
    scoped = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if version >= 6 else 0
    attr = _RulesetAttr(files, net, scoped)
    size = ctypes.sizeof(ctypes.c_uint64) * (1 if version < 4 else 2 if version < 6 else 3)  # as far as it knows
    ruleset = _call(_CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(size), 0)
    try:
        _allow(ruleset, (folder, Path("/dev/null")), files & ~_EXECUTE)
        _allow(ruleset, _readable(), _READ_FILE | _READ_DIR)
        _allow(ruleset, readable, _READ_FILE | _READ_DIR)
        if server_port is not None:
            named = () if ca_file is None else (ca_file,)
            _allow(ruleset, (*(Path(name) for name in _TO_FIND_SERVERS), *named), _READ_FILE | _READ_DIR)
        if net and port is not None:
            _call(_ADD_RULE, ruleset, _RULE_NET_PORT, ctypes.byref(_NetPort(_BIND_TCP, port)), 0)
        if net and server_port is not None:
            _call(_ADD_RULE, ruleset, _RULE_NET_PORT, ctypes.byref(_NetPort(_CONNECT_TCP, server_port)), 0)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _readable() -> Iterable[Path]:
    package = Path(__file__).resolve().parents[1]
    yield package
    yield from (Path(name) for name in (*_SYSTEM_FILES, *site.getsitepackages()))
    yield Path(sys.prefix) / "pyvenv.cfg"
    yield from (Path(sys.base_prefix) / name for name in ("lib", "lib64"))


def _allow(ruleset: int, paths: Iterable[Path], access: int) -> None:
    of_files = _WRITE_FILE | _READ_FILE | _TRUNCATE
    for path in paths:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            rights = access if path.is_dir() else access & of_files
            _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(_PathBeneath(rights, handle)), 0)
        finally:
            os.close(handle)
