"""What tools of others read: the citation, the changes, the types of the API."""

import re
import subprocess
import sys

import pytest
import yaml

from LeFusion.runtime.commandline import PROJECT_ROOT

VERSION = re.search(r'^version = "(.+)"', (PROJECT_ROOT / "pyproject.toml").read_text(), re.M)[1]


def test_the_citation_is_of_this_version_and_paper():
    citation = yaml.safe_load((PROJECT_ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors"} <= citation.keys()
    assert citation["version"] == VERSION and citation["license"] == "Apache-2.0"
    bibtex = (PROJECT_ROOT / "README.md").read_text()
    assert citation["preferred-citation"]["title"] in bibtex
    for author in citation["preferred-citation"]["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in bibtex


def test_the_changes_begin_with_this_version():
    versions = re.findall(r"^## (\S+)", (PROJECT_ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == VERSION and len(set(versions)) == len(versions)


@pytest.mark.slow
def test_the_types_of_the_api_are_sound():
    pytest.importorskip("pyright")
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
