"""A place where things go wrong: runs the project's commands where disks can be small, full or read-only.

The tests start this program once, in namespaces of its own where the system allows it, and talk to it by lines of JSON.
It imports the project, then makes a process for each command by forking, which spares each the imports.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]


def start(program: list[str], folder: str, output: str, fault: str) -> int:
    """Fork a process that runs a command; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        if fault:
            importlib.import_module("sabotage").__dict__[fault]()
        sys.argv = program
        importlib.import_module(Path(program[0]).stem).main()
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float = 180) -> int:
    """Exit status of a process, negative if a signal ended it; one that goes on for too long is killed."""
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def answer(wish: dict[str, Any]) -> Any:
    """Do what is asked."""
    match wish.pop("do"):
        case "mount":
            command = ["mount", *wish["arguments"]]
            return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False).stderr
        case "start":
            return start(**wish)
        case "wait":
            return wait(wish["pid"])


def main() -> None:
    """Answer until nobody asks any more."""
    sys.path[:0] = [str(PROJECT), str(PROJECT / "tools"), str(Path(__file__).parent)]
    import torch

    importlib.import_module("main")
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
