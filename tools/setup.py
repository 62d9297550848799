"""Make the checkout ready to run: uv in `.tools`, the locked packages in `.venv`.

Uses the standard library only, because nothing else is there yet. uv itself is an entry of `uv.lock`; its wheel is
fetched from the address and checked against the hash that stand there. A uv on the PATH is used as it is.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
STAMP = VENV / ".synced"


def main() -> int:
    """Set up when anything changed since the last time; say in one line what takes time."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs on whatever python3 there is
        print(f"SynDB needs Python 3.11 or newer; this is {platform.python_version()}.", file=sys.stderr)
        return 2
    state = fingerprint()
    if STAMP.is_file() and STAMP.read_text() == state:
        return 0
    uv = find_uv()
    say("installing the locked packages into .venv (the first time takes a minute or two)")
    environment = {
        **os.environ,
        "UV_PROJECT_ENVIRONMENT": str(VENV),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_PYTHON": sys.executable,
    }
    # Compiled once here instead of by every daemon at its start, where it takes half of the time.
    words = [uv, "sync", "--frozen", "--quiet", "--compile-bytecode"]
    outcome = subprocess.run(words, cwd=ROOT, env=environment, check=False)
    if outcome.returncode:
        print("uv could not install the packages; its message stands above.", file=sys.stderr)
        return outcome.returncode
    # libp2p brings an outdated folder of type stubs that shadows the types trio ships itself.
    for stubs in VENV.glob("lib/python*/site-packages/trio-stubs"):
        shutil.rmtree(stubs)
    STAMP.write_text(state)
    return 0


def fingerprint() -> str:
    """Changes when the lock, the project, the interpreter or this file do."""
    parts = [(ROOT / name).read_bytes() for name in ("uv.lock", "pyproject.toml", "tools/setup.py")]
    return hashlib.sha256(b"\0".join([*parts, sys.version.encode()])).hexdigest()


def find_uv() -> str:
    """Path of uv: from the PATH, from `.tools`, or fetched."""
    found = shutil.which("uv") or shutil.which("uv", path=str(TOOLS))
    if found:
        return found
    wheel = locked_wheel()
    say("fetching uv into .tools")
    try:
        with urllib.request.urlopen(wheel["url"], timeout=120) as response:  # noqa: S310 - https, from the lock
            content = response.read()
    except OSError as error:
        raise SystemExit(f"cannot fetch uv: {error}\nInstall uv yourself and try again.") from None
    if "sha256:" + hashlib.sha256(content).hexdigest() != wheel["hash"]:
        raise SystemExit("the uv that was fetched is not the one in uv.lock; nothing was installed")
    TOOLS.mkdir(exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        target = TOOLS / "uv"
        target.write_bytes(archive.read(member))
    target.chmod(0o755)
    return str(target)


def locked_wheel() -> dict[str, str]:
    """The lock's entry for uv's wheel on this platform."""
    with (ROOT / "uv.lock").open("rb") as file:
        packages = tomllib.load(file)["package"]
    libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    wanted = {"Linux": libc, "Darwin": "macosx"}.get(platform.system(), platform.system())
    machine = platform.machine().lower()
    for package in packages:
        if package["name"] == "uv":
            for wheel in package["wheels"]:
                name = wheel["url"].rsplit("/", 1)[1]
                if wanted in name and machine in name:
                    return wheel
    raise SystemExit(f"uv.lock has no uv for {platform.system()} {machine}; install uv yourself and try again")


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
