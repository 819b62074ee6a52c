"""Processes of this Python that answer this one, in lines of JSON and plain bytes, no pickle."""

import json
import os
import subprocess  # nosec B404 # runs Python on a function of kinembed's
import sys

Child = subprocess.Popen[bytes]


def program(module: str) -> str:
    """The program of a child: a module's `answer_parent`, called with the child's arguments.

    It takes the modules of this process, and none of the folder that it is in.
    """
    return (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        f"from {module} import answer_parent; answer_parent(*sys.argv[2:])"
    )


def start(code: str, *arguments: str, own_session: bool = False, **environment: str) -> Child:
    """Starts a child, which is asked on its standard input and answers on its standard output.

    Args:
        code: of `program`.
        arguments: of its function.
        own_session: Ctrl-C does not reach it.
        environment: variables beside this process's own.
    """
    return subprocess.Popen(  # nosec B603 # no shell; only this Python
        [sys.executable, "-I", "-c", code, json.dumps(sys.path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        start_new_session=own_session,
    )
