"""Run the samples of a page in one process: `[["command" or "python", text], …]` in, `[[status, output], …]` out."""

import contextlib
import io
import json
import shlex
import subprocess
import sys
import traceback

from speech_zoo.cli.main import main


def run(kind: str, text: str) -> int:
    """The status of one sample; what it prints goes to sys.stdout and sys.stderr."""
    words = shlex.split(text, comments=True)
    if kind == "command" and words[0] != "speech-zoo":
        done = subprocess.run(["bash", "-c", text], capture_output=True, encoding="utf-8", check=False)
        print(done.stdout, done.stderr, sep="", end="")
        return done.returncode
    try:
        if kind == "command":
            sys.argv = words
            main()
        exec(compile(text, "sample", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    results = []
    for kind, text in json.load(sys.stdin):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            status = run(kind, text)
        results.append([status, printed.getvalue()])
    print(json.dumps(results))
