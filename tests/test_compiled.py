"""The compiler's cache is judged by every file that machine code could be made of, and by no other."""

from pathlib import Path

import gainnet
from gainnet.compiled import sources

PACKAGE = Path(gainnet.__file__).parent


def test_sources_are_the_kernels_and_what_they_take_constants_from() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in sources()}
    assert {"network/link_kernel.py", "orchestrator/stage_kernel.py", "demand/task.py"} <= found


def test_what_no_kernel_imports_is_not_among_them() -> None:
    found = {path.relative_to(PACKAGE).parts[0] for path in sources()}
    assert not found & {"apps", "serving"}
    assert PACKAGE / "models" / "hub.py" not in sources()
