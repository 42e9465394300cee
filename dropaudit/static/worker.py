"""A process that checks one file after another for `pool`: nothing it does can harm the scan.

On standard input and output: a line of JSON that says how many bytes follow, then the bytes. The
first line out names the prefilter; then each request gets back a line with a packed record, null if
only the facts of the file were asked for, a line that says how many bytes these take, and they.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from typing import BinaryIO

from dropaudit.static.record import FileRecord
from dropaudit.static.wire import packed, unpacked_options

_STACK = 512 * 1024 * 1024  # the parser and the code generator recurse
_MEMORY = 2 * 1024**3  # the stack and what is left over from other files included
_MEMORY_PER_BYTE = 500  # what the tree of an ordinary file takes, twice


def main() -> None:
    """Serve until standard input ends."""
    if sys.flags.isolated:  # started by a pool: an interrupt is the parent's to handle
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bound_memory()
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not reach the replies
    threading.stack_size(_STACK)
    try:
        thread = threading.Thread(target=_serve, args=(requests, replies))
        thread.start()
    except (RuntimeError, MemoryError):  # no room for such a stack
        _serve(requests, replies)
        return
    thread.join()


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    try:
        from dropaudit.catalogue import rules
        from dropaudit.static.checker import attempt, read_apart
        from dropaudit.static.factwire import packed_facts
        from dropaudit.static.prefilter import trigger_patterns

        _reply(replies, {"triggers": trigger_patterns(rules())})
    except Exception as error:  # a rule that cannot be imported
        _reply(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    sys.setrecursionlimit(1_000_000)
    gc.disable()  # parsing makes many objects and no garbage: a fifth faster
    gc.freeze()
    since = largest = 0
    while line := requests.readline():
        path, options, size = json.loads(line)
        data = requests.read(size)
        largest = max(largest, size)  # what a large file took is not all given back
        _bound_memory(largest)
        if options is None:
            record, facts = None, read_apart(path, data)
        else:
            record = attempt(path, data, unpacked_options(options))
            facts = record.facts
        blob = packed_facts(facts)
        replies.write(b"%b\n%d\n%b" % (_line(record), len(blob), blob))
        replies.flush()
        since += size
        if since > 1_000_000:  # trees are given back at once; this is the little that is left
            gc.collect()
            since = 0


def _line(record: FileRecord | None) -> bytes:
    return json.dumps(None if record is None else packed(record)).encode()


def _reply(replies: BinaryIO, value: object) -> None:
    replies.write(json.dumps(value).encode() + b"\n")
    replies.flush()


def _bound_memory(size: int = 0) -> None:
    """Let the memory that this process may take fit files of up to `size` bytes."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = _MEMORY + _MEMORY_PER_BYTE * size
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (ImportError, OSError, ValueError):  # not on this system
        return
