"""Build the sdist and from it the wheel, and train the quickstart with each as a user without a checkout would.

    python scripts/try_release.py [FOLDER]     FOLDER: where the two files are left (default: dist)

Both are installed into an empty virtual environment, with the tested versions of constraints.txt, and run in an empty
folder. Exit code 1 if the accuracy after training is below LEAST.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEAST = 0.9  # accuracy after training


def main() -> int:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").absolute()
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True, stdout=subprocess.DEVNULL
    )
    (wheel,), (sdist,) = ([max(out.glob(name), key=os.path.getmtime)] for name in ("*.whl", "*.tar.gz"))
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        programs = Path(folder) / "venv" / ("Scripts" if os.name == "nt" else "bin")
        pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for file, options in (
            (wheel, ["--constraint", str(ROOT / "constraints.txt")]),
            (sdist, ["--no-deps", "--force-reinstall"]),
        ):
            subprocess.run([*pip, *options, str(file)], check=True)
            empty = Path(folder) / file.name
            empty.mkdir()
            accuracy = quickstart(programs, empty)
            print(f"{file.name}, {file.stat().st_size / 1e6:.1f} MB: {accuracy:.1%} after tiny-math quickstart")
            if accuracy < LEAST:
                return 1
    return 0


def quickstart(programs: Path, folder: Path) -> float:
    """The accuracy that the installation in `programs` reaches in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(programs / "tiny-math"), "quickstart", "--quiet"], cwd=folder, env=environment, check=True)
    return json.loads((folder / "checkpoint/quickstart/summary.json").read_text(encoding="utf-8"))["after"]["accuracy"]


if __name__ == "__main__":
    sys.exit(main())
