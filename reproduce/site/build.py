"""Building the site: pages, Sphinx, and what of it no page needs removed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from nsl.outputs import scratch
from reproduce.show.closure import ROOT
from reproduce.site.pages import write_source

#: Parts of MathJax that no page of ours loads: other outputs, inputs, and speech.
UNUSED = ("a11y", "sre", "output/svg", "output/svg.js", "input/asciimath.js", "input/mml.js", "input/mml", "adaptors")

#: Of MathJax's bundles, each of which has all that it needs, the one that pages load.
BUNDLE = "tex-chtml.js"

#: The whole site shall be smaller, in bytes.
LARGEST = 40 * 2**20


def build(results: Path, output: Path) -> str:
    """Build the site of all profiles with results; returns a line that says where and how large it is.

    Raises:
        ValueError: Sphinx is not installed or fails, the site is too large, or there is no folder of results.
    """
    try:
        import myst_nb  # noqa: F401
        import sphinx  # noqa: F401
    except ImportError as error:
        raise ValueError(f"The site needs {error.name}; run `make env`, or `pip install '.[site]'`.") from None
    if not results.is_dir():
        raise ValueError(f"{results} is no folder; name the folder of results by --results.")
    if output.exists() and not (output / "searchindex.js").exists() and any(output.iterdir()):
        raise ValueError(f"{output} is no site of ours and not empty; name another folder by --output.")
    with scratch("nsl-site-") as folder:
        source, made = folder / "source", folder / "html"
        source.mkdir()
        write_source(results, ROOT, source)
        (source / "extra").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "sphinx", "-q", "-E", "-b", "html", str(source), str(made)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        lines = [line.replace(f"{source}/", "") for line in done.stderr.splitlines() if line.strip()]
        if done.returncode:
            raise ValueError(f"Sphinx failed: {lines[-1] if lines else 'no reason given'}.")
        for line in lines:
            print(line, file=sys.stderr)
        _prune(made)
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        if size > LARGEST:
            raise ValueError(f"The site has {size / 2**20:.0f} MiB, more than {LARGEST // 2**20}; leave records out.")
        if output.exists():
            shutil.rmtree(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, output)
    pages = len(list(output.rglob("*.html")))
    return f"{pages} pages, {size / 2**20:.1f} MiB: open {output / 'index.html'}"


def _prune(made: Path) -> None:
    """Remove what the browser never asks for."""
    shutil.rmtree(made / ".doctrees", ignore_errors=True)
    for place in made.rglob("mathjax"):
        for name in UNUSED:
            path = place / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for path in (*place.glob("tex-*.js"), *place.glob("mml-*.js")):
            if path.name != BUNDLE:
                path.unlink()
