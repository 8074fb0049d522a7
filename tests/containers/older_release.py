"""A release that was: its tree from git, and an image with its program."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import docker

from tests.containers.stack import ROOT

# The last commit of release 0.1.0: the one that a cluster is upgraded from.
COMMIT_0_1_0 = "7197bbe431054a5e1159cd5ae1071cc6f394bd79"
IMAGE_0_1_0 = "overdb:0.1.0"

# Entry points and libraries are those of the present image; the program is the old one. It has a directory of
# its own, and the present one is not on the path.
_RECIPE = """\
FROM {base}
COPY program /opt/overdb/older
ENV PYTHONPATH=/opt/overdb/older:/opt/overdb/libraries
USER root
RUN python3 -m compileall -q /opt/overdb/older
USER overdb
"""


@dataclass(frozen=True)
class OlderRelease:
    """``tree``: its checkout, with the Compose file of its time; ``image``: its program."""

    tree: Path
    image: str


def older_release(engine: docker.DockerClient, scratch: Path, base: str) -> OlderRelease:
    """Check release 0.1.0 out below ``scratch`` and build its image on the libraries of image ``base``."""
    tree = scratch / "release"
    archive = subprocess.run(
        ["git", "archive", "--format=tar", COMMIT_0_1_0],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        raise AssertionError(
            f"the commit of release 0.1.0 is not here ({archive.stderr.decode().strip()}): "
            "fetch the whole history (git fetch --unshallow)"
        )
    tree.mkdir()
    # Python's tarfile of 3.11.2 (Debian 12) does not know the filter that newer ones want.
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
    (tree / ".venv").symlink_to(ROOT / ".venv")  # its scripts look there for Compose
    wheels = scratch / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--no-index", "--wheel-dir", str(wheels), str(tree)], check=True)
    context = scratch / "image"
    (wheel,) = wheels.glob("*.whl")
    shutil.unpack_archive(wheel, context / "program", format="zip")
    (context / "Dockerfile").write_text(_RECIPE.format(base=base))
    engine.images.build(path=str(context), tag=IMAGE_0_1_0, network_mode="none", rm=True)
    return OlderRelease(tree, IMAGE_0_1_0)
