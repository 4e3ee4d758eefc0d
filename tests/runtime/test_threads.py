"""Threads spin briefly where nobody said otherwise."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("given, found", [(None, "2000"), ("7", "7")])
def test_whoever_asks_the_package_for_something_spins_briefly(given, found):
    code = "import os; from LeFusion import UserError; print(os.environ['GOMP_SPINCOUNT'])"
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": given} if given else {}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.stdout.strip() == found, ran.stderr
