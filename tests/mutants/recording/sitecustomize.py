"""Note the lines that each Python process of the tests runs. Python imports a module of this name by itself."""

import executed  # type: ignore[import-not-found]

executed.watch_imports()
