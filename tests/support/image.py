"""Images built by buildah, and run in namespaces of their own, without a network.

    with Workshop() as workshop:
        root = workshop.build(folder)   # a folder with a Dockerfile
        with root.start(SIDECAR_STORE="file:///store") as running:
            running.run("sidecar", "status")

The base, debian:bookworm-slim, is made of this host's own Debian packages: apt finds all there that it is
asked for. What pip is asked for is fetched once, by the pip of the tests, to build/wheels. Nothing else of it
is left when it ends: images and containers have a folder of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.conftest import ROOT
from tests.support import container

_BOUND = 120.0
_BASE = ("apt", "ca-certificates", "passwd", "python3", "python3-pip", "python3-venv")
_STATUS = Path("/var/lib/dpkg/status")
# What packages make of themselves when they are installed.
_MADE = ("/etc/alternatives", "/etc/pam.d", "/etc/ssl/certs", "/var/lib/dpkg/info")
_MADE_FILES = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/ld.so.cache", str(_STATUS))
_MERGED = ("/bin", "/sbin", "/lib", "/lib64", "/usr", "/etc", "/var", "/tmp")
_NOT_NEEDED = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/")
_EMPTY = ("proc", "sys", "dev", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial")
# The image's folder as root, shared folders in it, and then its command as its user.
_RUN = """
set -eu
cd "$1"
mount -t proc proc proc
mount --rbind /dev dev
ip link set lo up
shift
while [ "$1" != -- ]; do
  mkdir -p ".$2"
  mount --bind "$1" ".$2"
  shift 2
done
shift
exec "$@"
"""


def why_not() -> str | None:
    """Why no image can be built here, in words; None when one can."""
    if shutil.which("buildah") is None:
        return "buildah is not installed (Debian package buildah)"
    if not _STATUS.exists():
        return "this is not a Debian"
    return container.why_not()


class Workshop:
    """Where images are built; all of it is gone at its end."""

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self._stack.callback(self._end)
        try:
            self._wheels = _wheels()
            self._make_base()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._buildah("unmount", "--all")

    def _buildah(self, *arguments: str | Path) -> str:
        where = ("--root", self.folder / "images", "--runroot", self.folder / "run", "--log-level", "error")
        done = subprocess.run(
            ["buildah", *where, *arguments], capture_output=True, text=True, check=False, timeout=3 * _BOUND
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def _make_base(self) -> None:
        made = self._buildah("from", "scratch")
        root = Path(self._buildah("mount", made))
        listed = self.folder / "files"
        listed.write_text("\0".join(_files()))
        copy = 'tar -C / --no-recursion --null -T "$1" -cf - | tar -C "$2" -xf -'
        subprocess.run(["sh", "-c", copy, "sh", listed, root], check=True, timeout=_BOUND)
        (root / "etc" / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        for path in _EMPTY:
            (root / path).mkdir(parents=True, exist_ok=True)
        (root / "etc" / "apt" / "sources.list").write_text("")
        (root / "etc" / "apt" / "sources.list.d").mkdir(exist_ok=True)
        self._buildah("unmount", made)
        self._buildah("commit", "--quiet", "--rm", made, "docker.io/library/debian:bookworm-slim")

    def build(self, folder: Path) -> Image:
        """The image that a folder's Dockerfile makes."""
        name = f"image-{time.monotonic_ns()}"
        options = ("--quiet", "--pull-never", "--format=docker", "--isolation=chroot")
        self._buildah("bud", *options, f"--volume={self._wheels}:/wheels:ro", f"--tag={name}", folder)
        config = json.loads(self._buildah("inspect", "--type=image", name))["Docker"]["config"]
        return Image(Path(self._buildah("mount", self._buildah("from", "--pull-never", name))), config)


@dataclass(frozen=True)
class Image:
    """An image: its files, and its configuration as Docker has it."""

    root: Path
    config: Mapping[str, Any]

    @contextmanager
    def start(self, *shared: tuple[Path, str], **environ: str) -> Iterator[Running]:
        """A container that runs the image's command, with folders of this host; it ends with the block."""
        with tempfile.TemporaryFile() as log:
            command = [*(self.config.get("Entrypoint") or ()), *(self.config.get("Cmd") or ())]
            process = subprocess.Popen(
                [*_OUTSIDE, *self._inside(shared, environ, *command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            running = Running(self, process, log, environ)
            try:
                yield running
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def run(self, *arguments: str) -> str:
        """What a container of its own prints when its entry point gets other arguments; it must end well."""
        command = [*self.config["Entrypoint"], *arguments]
        done = subprocess.run(
            [*_OUTSIDE, *self._inside((), {}, *command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_BOUND,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _inside(
        self, shared: tuple[tuple[Path, str], ...], environ: Mapping[str, str], *command: str
    ) -> list[str]:
        folders = [str(word) for pair in shared for word in pair]
        return ["sh", "-c", _RUN, "sh", str(self.root), *folders, "--", *self.enter(".", environ), *command]

    def enter(self, root: str, environ: Mapping[str, str]) -> list[str]:
        """The words before a command that run it as the image's user, in its folder."""
        user = [f"--userspec={self.config['User']}"] if self.config.get("User") else []
        variables = [*(self.config.get("Env") or ()), *(f"{name}={value}" for name, value in environ.items())]
        folder = f"--chdir={self.config.get('WorkingDir') or '/'}"
        return ["chroot", *user, root, "env", "-i", folder, *variables]


_OUTSIDE = ("unshare", "--mount", "--uts", "--ipc", "--pid", "--net", "--fork", "--kill-child")


@dataclass(frozen=True)
class Running:
    """A container while it runs."""

    image: Image
    process: subprocess.Popen[bytes]
    log: Any
    environ: Mapping[str, str]

    @property
    def first(self) -> int:
        """Its first process, as this host counts."""
        deadline = time.monotonic() + _BOUND
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (found := children.read_text().split()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)
        return int(found[0])

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as its user."""
        done = subprocess.run(
            [
                *("nsenter", f"--target={self.first}", "--mount", "--pid", "--net", "--root"),
                *self.image.enter("/", self.environ),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_BOUND,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}\n{self.said()}"
        return done

    def said(self) -> str:
        """The end of what it printed."""
        self.log.seek(0)
        return str(self.log.read().decode(errors="replace")[-3000:])


def _wheels() -> Path:
    """A folder with what the lock files name."""
    folder = ROOT / "build" / "wheels"
    for name in ("requirements.lock", "requirements-build.lock"):
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:")
        done = subprocess.run(
            [*pip, f"--dest={folder}", f"--requirement={ROOT / name}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=3 * _BOUND,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _files() -> list[str]:
    """Every file of the packages of a small Debian, as far as this host has them; paths without the slash."""
    installed, provided = {}, {}
    for entry in _STATUS.read_text().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", entry, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            installed[fields["Package"]] = fields
            for name in fields.get("Provides", "").split(", "):
                provided[name.partition(" ")[0]] = fields["Package"]
    todo = [name for name, fields in installed.items() if "yes" in fields.get("Essential", "")]
    todo += _BASE
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        name = name if name in installed else provided.get(name, "")
        if name and name not in seen:
            seen.add(name)
            for field in ("Depends", "Pre-Depends"):
                todo += re.findall(r"([a-z0-9][a-z0-9+.-]*)[^,|]*", installed[name].get(field, ""))
    found = {*_MERGED, *_MADE_FILES}
    for name in seen:
        for listed in Path("/var/lib/dpkg/info").glob(f"{name}*.list"):
            if listed.stem.partition(":")[0] == name:
                found |= set(listed.read_text().split("\n"))
    for folder in _MADE:
        found |= {str(path) for path in (Path(folder), *Path(folder).rglob("*"))}
    kept = {path for path in found if len(path) > 2 and not path.startswith(_NOT_NEEDED)}
    # /bin/sh lies in /usr/bin: what is listed below a link belongs below what it leads to.
    real = {Path(path).parent.resolve() / Path(path).name for path in kept}
    return sorted(str(path)[1:] for path in real if os.path.lexists(path))
