"""Owns the directories in which data of this user alone are kept: made private, and refused where they are not ours.

It must never go through a link that another user could have laid, nor take a directory that another user owns,
whoever runs it.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

_PRIVATE: Final = 0o700
_ALL: Final = 0o777


def make_private(directory: Path) -> None:
    """Make `directory` (an absolute path) one of mode 0700 that belongs to the user of this process.

    Parents that are missing are made the same way. Those that are there stay as they are.

    Raises:
        OSError: it cannot be made, is a link or no directory, belongs to another user, or a parent is another user's
            link; `strerror` says which.
    """
    for parent in reversed(directory.parents):
        _make(parent)
        _check_link(parent)
    _make(directory)
    if directory.is_symlink():
        raise _refusal(directory, "is a link: name the directory itself")
    try:
        # what is opened is what is checked and changed, whatever happens to its name meanwhile
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise _refusal(directory, "is no directory") from None
    try:
        status = os.fstat(opened)
        if status.st_uid != os.geteuid():
            raise _refusal(directory, f"belongs to another user (number {status.st_uid})")
        if status.st_mode & _ALL != _PRIVATE:
            os.fchmod(opened, _PRIVATE)
    finally:
        os.close(opened)


def _make(directory: Path) -> None:
    if os.path.lexists(directory):  # some systems refuse to make what is there with other errors
        return
    with suppress(FileExistsError):
        os.mkdir(directory, _PRIVATE)  # noqa: PTH102 - Path.mkdir makes parents by the umask
        if directory.lstat().st_mode & _ALL != _PRIVATE:  # so odd a umask that its owner could not use it
            directory.chmod(_PRIVATE)


def _check_link(parent: Path) -> None:
    """A parent may be a link of this user or of the system's, such as /tmp on macOS."""
    status = parent.lstat()
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in {0, os.geteuid()}:
        raise _refusal(parent, f"is a link of another user (number {status.st_uid})")


def _refusal(directory: Path, why: str) -> OSError:
    return OSError(None, f"{directory} {why}", str(directory))
