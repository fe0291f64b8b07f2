"""A check sum behind the content of a file: whether it is there as it was written."""

from __future__ import annotations

import hashlib

#: Stands before the 64 hexadecimal digits of the SHA-256 of what stands before it.
MARK = b"\nnsl-sha256 "
#: Bytes of a seal.
LENGTH = len(MARK) + 64


def seal(content: bytes | memoryview) -> bytes:
    """What is appended to the content."""
    return MARK + hashlib.sha256(content).hexdigest().encode()


def unsealed(whole: bytes) -> bytes | None:
    """The content before a right seal; None where the end is none."""
    content = whole[:-LENGTH]
    return content if whole[-LENGTH:] == seal(content) else None
