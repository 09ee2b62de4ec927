"""What a file of results has to say about itself: bench/ programs put state() into it."""
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def state():
    """{commit, command, date}: of the state of the code that ran, with a + where it was not as committed; commit None outside a clone."""
    def git(*args):
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None
    commit = git("rev-parse", "--short", "HEAD")
    changed = commit and git("status", "--porcelain", "--untracked-files=no", "core", "shaders", "python", "bindings", "bench/*.*")
    program = Path(sys.argv[0]).resolve()
    name = str(program.relative_to(ROOT)) if program.is_relative_to(ROOT) else program.name
    return {"commit": commit and commit + ("+" if changed else ""), "command": " ".join([name, *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d", time.gmtime())}
