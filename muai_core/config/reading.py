"""The config file's bytes, under limits, before anything looks at what they mean."""

import os
import stat
from pathlib import Path

from muai_core.config.errors import ConfigError, Origin, Problem

FILE_BYTES_MAX = 1024 * 1024


def read_text(
    path: Path, shown: str, kind: str = "a config", bytes_max: int = FILE_BYTES_MAX
) -> str:
    """The text of the file; `shown` is its name in messages, and `kind` what it should be.

    Raises ConfigError when it is missing, not a regular file, unreadable, longer than `bytes_max`
    (found out before it is read) or not UTF-8.
    """
    try:
        # Non-blocking, so that a named pipe without a writer is refused instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _refusal(shown, _open_message(error)) from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise _refusal(shown, "this is a directory; name the YAML file inside it")
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(shown, "this is not a regular file")
        if status.st_size > bytes_max:
            raise _refusal(shown, _size_message(status.st_size, kind, bytes_max))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise _refusal(shown, _open_message(error)) from None
    finally:
        os.close(descriptor)
    if len(data) > bytes_max:
        raise _refusal(shown, _size_message(len(data), kind, bytes_max))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `object` is the text after a byte order mark, so the offset is taken from the end.
        offset = len(data) - len(error.object) + error.start
        line = data.count(b"\n", 0, offset) + 1
        message = f"not UTF-8: byte 0x{data[offset]:02X} at offset {offset}; save the file as UTF-8"
        raise _refusal(shown, message, line) from None


def _open_message(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "the file cannot be read: permission denied"
    if isinstance(error, OSError):
        return f"the file cannot be read: {error.strerror or error}"
    return f"this is not a file name: {error}"


def _size_message(size_bytes: int, kind: str, bytes_max: int) -> str:
    return f"the file has {size_bytes:,} bytes; {kind} may have {bytes_max:,}"


def _refusal(shown: str, message: str, line: int = 0) -> ConfigError:
    return ConfigError([Problem(Origin("file", shown, line), "", message)])
