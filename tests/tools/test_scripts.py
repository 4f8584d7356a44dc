"""Each tool is a script as well, which runs from any folder."""

import runpy
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TOOLS = sorted((PROJECT / "tools").glob("*.py"))


def test_every_tool_runs_as_a_script(tmp_path: Path) -> None:
    """All in one process, in which what they share is imported once."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(TOOLS) > 20


if __name__ == "__main__":
    others = sys.path[1:]
    for path in TOOLS:
        sys.argv, sys.path[:] = [str(path), "--help"], [str(path.parent), *others]
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, f"{path}: {ended.code}"
        assert str(PROJECT) in sys.path, f"{path} does not find the project"
