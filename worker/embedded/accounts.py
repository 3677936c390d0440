"""Which account may run PostgreSQL: it refuses root, so root lends it another face, or runs it as `nobody`.

With user namespaces the server thinks that it is `nobody` while its files stay root's, in a private folder. Where they
are forbidden it is `nobody`, who cannot enter a private folder: the data and a copy of the binaries then live in a
public place, in a folder that we make for it. No permission of any existing folder is ever changed.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from worker.embedded.processes import Account, ServerFailed

# /var/tmp comes second: systems clear it of what has not been touched for a month.
PUBLIC_PLACES = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108 -- a fresh folder of an unguessable name is made in it


def choose(home: Path, program: Path) -> Account:
    """Who runs `program`, of PostgreSQL, for a new database under `home`. Raises ServerFailed if nobody can."""
    if os.geteuid() != 0:
        return Account()
    if namespaces_work(home, program):
        return _masked()
    nobody = _nobody()
    return Account(user=nobody.pw_uid, group=nobody.pw_gid)


def keeper(data: Path) -> Account:
    """Who runs PostgreSQL on existing `data`: what was chosen for them shows in who owns them."""
    facts = data.stat()
    if facts.st_uid != os.geteuid():
        return Account(user=facts.st_uid, group=facts.st_gid)
    return Account() if os.geteuid() else _masked()


def namespaces_work(home: Path, program: Path) -> bool:
    """Whether a process in a namespace of its own can write to `home` and run `program`.

    It has lost root's right to enter other accounts' private folders, so a parent folder can forbid either.
    """
    if not shutil.which("unshare"):
        return False
    probe = [*_masked().prefix, "/bin/sh", "-c", 'test -w "$1" && test -x "$2"', "sh", str(home), str(program)]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0  # noqa: S603 -- the command is ours


def public_folder() -> Path:
    """A new folder that every account can pass through and only we can change."""
    for place in PUBLIC_PLACES:
        if place.is_dir() and place.stat().st_mode & 0o001 and os.access(place, os.W_OK):
            folder = Path(tempfile.mkdtemp(prefix="redirect-worker-", dir=place))
            folder.chmod(0o711)
            return folder
    raise ServerFailed(f"no place for PostgreSQL's data: neither of {PUBLIC_PLACES} can be written and entered")


def copy_for_all(package: Path, folder: Path) -> None:
    """Copy the installed PostgreSQL `package`, with the libraries beside it, so that every account can run it."""
    for source in (package, package.with_name(f"{package.name}.libs")):
        target = folder / source.name
        shutil.rmtree(target, ignore_errors=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("include", "__pycache__", "*.a")
            shutil.copytree(source, target, ignore=ignored, copy_function=shutil.copyfile)
            for path in (target, *target.rglob("*")):
                path.chmod(0o755)


def _masked() -> Account:
    nobody = _nobody()  # it must have a name: initdb looks up its own
    return Account(prefix=("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"))


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise ServerFailed("PostgreSQL refuses root, and there is no account `nobody`: run as another user") from None
