"""docs/reliability.md names the test that keeps each promise."""

import ast
import re

from LeFusion.runtime.commandline import PROJECT_ROOT

DOCUMENT = PROJECT_ROOT / "docs" / "reliability.md"


def test_every_promise_has_a_test_that_exists():
    rows = [row for row in DOCUMENT.read_text().splitlines() if row.startswith("| ") and "---" not in row]
    promises = [row for row in rows if not row.endswith("| kept by |")]
    named = [re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row) for row in promises]
    assert len(promises) > 40 and sum(not tests for tests in named) == 1  # that of the published advisories
    for path, name in sorted({test for tests in named for test in tests}):
        tree = ast.parse((PROJECT_ROOT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (path, name)
