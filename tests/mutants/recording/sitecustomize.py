"""Start coverage in every Python process of the tests. Python imports a module of this name by itself."""

import coverage

coverage.process_startup()
